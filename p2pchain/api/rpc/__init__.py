"""JSON-RPC 2.0 over POST /, and every read as GET too."""

"""The final chain from headers and certificates alone."""

"""Assembly of a node: services and effect drivers."""

"""A node's folder: its configuration and its files."""

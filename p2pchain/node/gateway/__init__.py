"""Completions for clients: routes, sessions, other routes."""

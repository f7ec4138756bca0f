"""Layers on disk: files read by ranges, pieces checked by their hashes."""

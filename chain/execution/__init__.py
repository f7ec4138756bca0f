"""Transactions to a new state: of one chunk, by whoever executes it."""

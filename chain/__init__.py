"""Blocks, ledger, rules and store."""

"""Stake-weighted Simplex as a pure state machine."""

"""Paying and being paid: transactions, channels, claims, stakes."""

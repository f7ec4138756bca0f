"""Errors of genesis files."""

from primitives.errors import LocalError


class CorruptGenesis(LocalError):
    """A genesis that cannot start a chain; the message says what is wrong and where."""

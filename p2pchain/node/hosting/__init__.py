"""Layers that are hosted here."""

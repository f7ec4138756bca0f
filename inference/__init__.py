"""Layers of a model as supervised worker processes."""

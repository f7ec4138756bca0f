"""Reads of the final chain."""

"""Weights from peers, and for peers."""

"""Tests that share a devnet which none of them breaks."""

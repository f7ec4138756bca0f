"""Tests that share a devnet whose epochs last a second or two."""

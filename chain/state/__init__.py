"""Keys and values under one root per shard, and their proofs."""

"""Chunks of layer shards: made, endorsed and executed in processes beside."""

"""One shard's state as accounts, stakes, shards and epochs."""

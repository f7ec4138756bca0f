"""The chain as a service: blocks, transactions, what other shards hold."""

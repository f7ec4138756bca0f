"""The way of a transaction, measured: blocks, views, shards, states, networks."""

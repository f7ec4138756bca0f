"""A light client over RPC: its trust on disk, its questions, a wallet on top of it."""

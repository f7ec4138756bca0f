"""A deterministic simulator: whole networks in one process, on a virtual clock."""

"""A requester's side: one answer over a chain of hops, and their replacement."""

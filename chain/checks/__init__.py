"""Whether a database is what it says: blocks, states, books."""

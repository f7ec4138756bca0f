"""What stays: the database of final blocks, states and indices."""

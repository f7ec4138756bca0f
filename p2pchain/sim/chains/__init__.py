"""What a simulated network agrees on: the real chain, or a list of bare blocks."""

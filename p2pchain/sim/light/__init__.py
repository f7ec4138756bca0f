"""A light client among simulated nodes, and everything that it must not believe."""

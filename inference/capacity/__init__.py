"""Which layers a machine should host, and how fast a swarm will be."""

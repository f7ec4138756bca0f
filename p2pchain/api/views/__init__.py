"""What the surfaces show of the chain: reads joined, named and stamped, as JSON."""

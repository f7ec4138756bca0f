"""What the chain writes down: plain values with one encoding each."""

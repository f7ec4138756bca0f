"""Which models can be cut, proven on small ones of their kind."""

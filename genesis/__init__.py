"""Parameters, presets and the first state of a network."""

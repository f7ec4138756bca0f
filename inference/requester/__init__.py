"""All of a model but its layers."""

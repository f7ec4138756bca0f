"""The state of a boundary in parts, made and taken."""

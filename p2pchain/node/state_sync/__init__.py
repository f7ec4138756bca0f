"""A state instead of blocks: asked of peers in parts, and served."""

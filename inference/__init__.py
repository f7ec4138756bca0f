"""A prompt, from layers to layers: models in parts, and what is paid for them."""

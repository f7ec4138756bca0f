"""What the inference engine makes of this machine, section by section."""

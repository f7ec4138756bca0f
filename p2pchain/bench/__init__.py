"""What things cost on this machine, now: medians and ratios, never absolute claims."""

"""What a reader notices: speed, recovery, memory of whole networks that answer."""

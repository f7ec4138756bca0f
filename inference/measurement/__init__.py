"""What a machine and a precision are worth: programs that benches start."""

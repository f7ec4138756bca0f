"""What a machine can hold and how it computes: memory, precisions, accelerators."""

"""
How a stage keeps its weights: a word of its profile, so of what is sold.  No torch.
"""

from enum import StrEnum


class Precision(StrEnum):
    """Of the linear layers of a stage; everything else stays in the model's dtype."""

    NATIVE = "native"
    """The model's own dtype."""
    INT8 = "int8"
    """Weights of 7 bits with a scale per output, inputs of 8 bits with a scale per
    token, sums in 32-bit integers.  7 x 8 bits cannot saturate on any instruction set,
    so the sums are the same on all of them, whatever shares the pass."""
    INT4 = "int4"
    """Weights of 4 bits with scale and zero per group of 32, inputs in bfloat16."""

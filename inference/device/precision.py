"""
In which numbers a stage computes: a word of its profile, so of what is sold.  No torch.

Two things vary: the dtype of everything that is computed, which is also that of the
hidden states on the way, and how the weights of linear layers are kept.
"""

from enum import StrEnum


class Precision(StrEnum):
    """Of a stage."""

    NATIVE = "native"
    """The model's own dtype."""
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    """Everything in this dtype, whatever the files have."""
    INT8 = "int8"
    """The model's own dtype, and weights of linear layers of 7 bits with a scale per
    output, their inputs of 8 bits with a scale per token, sums in 32-bit integers.
    7 x 8 bits cannot saturate on any instruction set, so the sums are the same on all
    of them, whatever shares the pass."""
    INT4 = "int4"
    """Weights of 4 bits with scale and zero per group of 32, inputs in bfloat16."""

    def get_dtype(self, own: str) -> str:
        """Return the dtype of everything but packed weights.

        Args:
            own: The model's own dtype.
        """
        return _DTYPES.get(self, own)

    @property
    def packing(self) -> "Precision":
        """How the weights of linear layers are kept: native, int8 or int4."""
        return Precision.NATIVE if self in _DTYPES else self


_DTYPES = {
    Precision.FP32: "float32",
    Precision.BF16: "bfloat16",
    Precision.FP16: "float16",
}

PACKINGS = (Precision.NATIVE, Precision.INT8, Precision.INT4)
"""How weights can be kept."""

AUTO = "auto"
"""Instead of a precision: chosen by what the machine computes well (inference/
hardware.py) and what others serve, once, and written down."""

"""
Hidden states as bytes: their exact size, their digest, and whether they are numbers.

Between hops hidden states are `(tokens, hidden)` in the model's compute dtype, row by
row, little-endian, without padding.  Nothing here needs a tensor library beyond numpy,
so the node process can judge what it forwards.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from primitives.hashing import compute_blob_hash, compute_hash


class Dtype(IntEnum):
    """How one number of a hidden state is written."""

    FLOAT32 = 1
    FLOAT16 = 2
    BFLOAT16 = 3


DTYPE_OF_NAME = {
    "float32": Dtype.FLOAT32,
    "float16": Dtype.FLOAT16,
    "bfloat16": Dtype.BFLOAT16,
}
"""Names that models and workers use."""

_NUMBER_BYTES = {Dtype.FLOAT32: 4, Dtype.FLOAT16: 2, Dtype.BFLOAT16: 2}

_EXPONENT = {
    Dtype.FLOAT32: ("<u4", 0x7F80_0000),
    Dtype.FLOAT16: ("<u2", 0x7C00),
    Dtype.BFLOAT16: ("<u2", 0x7F80),
}
"""Word and exponent mask; all exponent bits set means infinity or NaN (IEEE 754)."""


def compute_size(tokens: int, hidden_size: int, dtype: int) -> int:
    """Return the bytes of `(tokens, hidden_size)` numbers."""
    return tokens * hidden_size * _NUMBER_BYTES[Dtype(dtype)]


def is_finite(body: bytes | memoryview, dtype: int) -> bool:
    """Tell whether no number in `body` is infinite or NaN.

    `body` has a whole number of words; callers check the size first.
    """
    word, mask = _EXPONENT[Dtype(dtype)]
    exponents = np.frombuffer(body, dtype=word) & mask
    # One reduction; `np.any` over a comparison takes three times as long for a token.
    return not exponents.size or bool(np.maximum.reduce(exponents) != mask)


def compute_digest(body: bytes | memoryview) -> bytes:
    """Return the digest of one step's hidden states."""
    return compute_blob_hash(body)


def compute_range_hash(digests: Sequence[bytes]) -> bytes:
    """Return one hash over the places and digests of a range's steps, in order."""
    return compute_hash("activations", *digests)

"""
How hidden states are written on the way between two hops.

    RAW    as the hops compute them: nothing is lost
    INT8   blocks of 64 numbers, a scale each: a quarter to a half of the bytes

Lossless is the default.  INT8 is asked for by the requester, stands in the terms that
it signs and in the header of every Data, and nobody falls back to it: whoever gets
another form than was agreed refuses it.  Digests, and so receipts, are about what was
sent.

A row of INT8 is the scales of its blocks (float32, little-endian), then a byte per
number, two's complement:

    scale = greatest |x| of the block / 127        number = round(x / scale)

So a number is off by half a scale at most, 1/254 of the greatest in its block of 64:
what is large in one place of a row does not coarsen the rest.  Measured figures are in
docs/benchmarks.md.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.protocol.activations import Dtype, compute_size, is_finite
from inference.protocol.codec import Codec
from inference.protocol.messages import Data

BLOCK = 64
"""Numbers of a scale: 6 % of a byte each, and few enough that an outlier stays among
its neighbours."""
PART_NUMBERS = 65_536
"""Coded at once: what that takes stays in the processor's cache.  128 rows of 4,096 in
one piece take three to five times as long, and hold up a node's other sessions."""
_SCALE_BYTES = 4
_LARGEST = 127.0


@dataclass(frozen=True, slots=True)
class WireForm:
    """What a session's hidden states look like."""

    hidden_size: int
    dtype: int
    """A value of `Dtype`: in which they are computed."""
    codec: int = Codec.RAW

    def is_of(self, data: Data) -> bool:
        """Tell whether a header announces hidden states of this form."""
        said = data.hidden_size, data.dtype, data.codec
        return said == (self.hidden_size, self.dtype, self.codec)

    def compute_size(self, tokens: int) -> int:
        """Return the bytes of `tokens` rows on the way."""
        if self.codec == Codec.RAW:
            return compute_size(tokens, self.hidden_size, self.dtype)
        return tokens * (self.hidden_size + _SCALE_BYTES * self._blocks)

    def compute_raw_size(self, tokens: int) -> int:
        """Return the bytes of `tokens` rows as they are computed."""
        return compute_size(tokens, self.hidden_size, self.dtype)

    def is_finite(self, body: bytes | memoryview) -> bool:
        """Tell whether `body`, of the right size, stands for finite numbers only."""
        if self.codec == Codec.RAW:
            return is_finite(body, self.dtype)
        scales, _ = self._split(body)
        # A scale that others than us have made may be anything.  The greatest number
        # that it gives must still be one in the dtype.
        greatest = _GREATEST[Dtype(self.dtype)] / _LARGEST * _SLACK
        return bool(np.all((scales >= 0) & (scales <= greatest)))

    def encode(self, raw: bytes | memoryview) -> bytes | memoryview:
        """Write rows of finite numbers as they travel.

        Args:
            raw: (tokens, hidden) in the dtype.
        """
        if self.codec == Codec.RAW:
            return raw
        size = self._part_rows * self.compute_raw_size(1)
        return b"".join(map(self._encode_part, _cut(raw, size)))

    def _encode_part(self, raw: memoryview) -> bytes:
        rows = _read_floats(raw, self.dtype).reshape(-1, self.hidden_size)
        padded = np.zeros((len(rows), self._blocks * BLOCK), np.float32)
        padded[:, : self.hidden_size] = rows
        blocks = padded.reshape(len(rows), self._blocks, BLOCK)
        scales = (np.abs(blocks).max(axis=2) / np.float32(_LARGEST)).astype("<f4")
        # A scale of zero stands for zeros, whatever it is divided by.
        divisors = np.where(scales > 0, scales, np.float32(1))[:, :, None]
        numbers = np.clip(np.rint(blocks / divisors), -_LARGEST, _LARGEST)
        bytes_of = numbers.astype(np.int8).reshape(len(rows), -1)[:, : self.hidden_size]
        return b"".join(
            part
            for scale, row in zip(scales, bytes_of, strict=True)
            for part in (scale.tobytes(), row.tobytes())
        )

    def decode(self, body: bytes | memoryview) -> bytes | memoryview:
        """Return what `body`, of the right size and finite, stands for.

        Returns:
            (tokens, hidden) in the dtype.
        """
        if self.codec == Codec.RAW:
            return body
        size = self._part_rows * self.compute_size(1)
        return b"".join(map(self._decode_part, _cut(body, size)))

    def _decode_part(self, body: memoryview) -> bytes:
        scales, numbers = self._split(body)
        every = np.repeat(scales, BLOCK, axis=1)[:, : self.hidden_size]
        greatest = np.float32(_GREATEST[Dtype(self.dtype)])
        with np.errstate(over="ignore"):
            found = numbers.astype(np.float32) * every
        return _write_floats(np.clip(found, -greatest, greatest), self.dtype)

    def round_trip(self, raw: bytes | memoryview) -> bytes | memoryview:
        """Return what arrives of rows that are sent."""
        return self.decode(self.encode(raw))

    @property
    def _part_rows(self) -> int:
        return max(1, PART_NUMBERS // self.hidden_size)

    @property
    def _blocks(self) -> int:
        return -(-self.hidden_size // BLOCK)

    def _split(
        self, body: bytes | memoryview
    ) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Return scales (tokens, blocks) and numbers (tokens, hidden)."""
        head = _SCALE_BYTES * self._blocks
        rows = np.frombuffer(body, np.uint8).reshape(-1, head + self.hidden_size)
        scales = np.ascontiguousarray(rows[:, :head]).view("<f4")
        return scales, rows[:, head:].view(np.int8)


def _cut(data: bytes | memoryview, size: int) -> list[memoryview]:
    view = memoryview(data)
    return [view[start : start + size] for start in range(0, len(view), size)]


_GREATEST = {
    Dtype.FLOAT32: float(np.finfo(np.float32).max),
    Dtype.FLOAT16: float(np.finfo(np.float16).max),
    Dtype.BFLOAT16: 3.3895313892515355e38,
}
"""Number of each dtype."""
_SLACK = 1.000001
"""For the rounding of a scale that stands for the greatest number."""


def _read_floats(raw: bytes | memoryview, dtype: int) -> NDArray[np.float32]:
    if dtype == Dtype.FLOAT32:
        return np.frombuffer(raw, "<f4")
    if dtype == Dtype.FLOAT16:
        return np.frombuffer(raw, "<f2").astype(np.float32)
    words: Any = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
    floats: NDArray[np.float32] = words.view(np.float32)
    return floats


def _write_floats(numbers: NDArray[np.float32], dtype: int) -> bytes:
    if dtype == Dtype.FLOAT32:
        return numbers.astype("<f4").tobytes()
    if dtype == Dtype.FLOAT16:
        return numbers.astype("<f2").tobytes()
    # To the nearest, and to even numbers half-way between two.
    words = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = words + 0x7FFF + ((words >> 16) & 1)
    return (rounded >> 16).astype("<u2").tobytes()

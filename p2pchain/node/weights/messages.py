"""
What nodes ask each other for a model's weights: requests on direct streams.

    weights/outline   model id, 32 bytes -> Outline (inference/weights/pieces.py)
    weights/offer     model id, 32 bytes -> one bit per part of the outline, below
    weights/part      hash, 32 bytes     -> the part

An offer says which parts the node has: bit `i % 8` of byte `i // 8`, the lowest first,
stands for part i, where parts are counted in the order of the outline, each hash once.
Bits beyond the last part are zero.

Spec: docs/protocol/15-weights.md
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inference.weights.pieces import Part
from primitives.errors import DecodeError

OUTLINE = "weights/outline"
OFFER = "weights/offer"
PART = "weights/part"

HASH_BYTES = 32
MAX_REQUEST_BYTES = 64
MAX_OFFER_BYTES = 256 * 1024
"""Two million parts: more than the largest outline has."""


def decode_hash(payload: bytes) -> bytes:
    """Return the hash that a question consists of.

    Raises:
        DecodeError: It is of another length.
    """
    if len(payload) != HASH_BYTES:
        raise DecodeError(f"a question of {len(payload)} bytes")
    return payload


def encode_offer(parts: Sequence[Part], is_held: Callable[[bytes], bool]) -> bytes:
    """Return an offer of those parts that are held."""
    bits = bytearray(-(-len(parts) // 8))
    for number, part in enumerate(parts):
        if is_held(part.digest):
            bits[number // 8] |= 1 << number % 8
    return bytes(bits)


@dataclass(frozen=True, slots=True)
class Offer:
    """The parts that a peer has."""

    bits: bytes
    numbers: Mapping[bytes, int]
    """Of all parts of the outline, by hash; shared by all peers' offers."""

    def __contains__(self, part: object) -> bool:
        if not isinstance(part, Part):
            return False
        number = self.numbers.get(part.digest)
        return number is not None and bool(self.bits[number // 8] >> number % 8 & 1)


def decode_offer(data: bytes, numbers: Mapping[bytes, int]) -> Offer:
    """Return a peer's offer.

    Raises:
        DecodeError: It is not one of this outline.
    """
    count = len(numbers)
    if len(data) != -(-count // 8):
        raise DecodeError(f"an offer of {len(data)} bytes for {count} parts")
    if count % 8 and data[-1] >> count % 8:
        raise DecodeError("an offer of parts that there are not")
    return Offer(data, numbers)

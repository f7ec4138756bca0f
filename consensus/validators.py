"""
Who votes, with how much power, and what a quorum is.

A bitmap names a subset: bit i of byte i // 8, least significant first, is validator i.
It has exactly as many bytes as the set needs and no bit beyond the last validator, so
that a subset has one bitmap.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated

from msgspec import Meta

from consensus.errors import InvalidValidators
from primitives.codec import Record, encode
from primitives.merkle import compute_list_root
from primitives.types import BlsPublicKey

MAX_VALIDATORS = 128
"""More votes per second than a core can take in Python, and 16 bytes of bitmap."""

MAX_BITMAP_BYTES = MAX_VALIDATORS // 8

Power = Annotated[int, Meta(ge=1, le=2**56 - 1)]
"""Stake in atoms; 128 of them and a factor of three stay below 2^65."""


class Validator(Record):
    """One voter."""

    public_key: BlsPublicKey
    power: Power
    """Weight of its vote: its stake in atoms."""


class ValidatorSet(Record, dict=True, gc=True):
    """The ordered list of an epoch's voters; an index in it names a signer.

    Every vote asks for the sum of all power, so it is computed once; what is computed
    is no field: neither equality nor encoding know of it.
    """

    validators: Annotated[tuple[Validator, ...], Meta(max_length=MAX_VALIDATORS)]

    def __len__(self) -> int:
        return len(self.validators)

    @cached_property
    def total_power(self) -> int:
        """W, the sum of all power."""
        return sum(validator.power for validator in self.validators)

    def validate(self) -> None:
        """Check what the type cannot say.

        Raises:
            InvalidValidators: Nobody in it, or one key twice.
        """
        if not self.validators:
            raise InvalidValidators("a set without validators")
        if len({v.public_key for v in self.validators}) != len(self.validators):
            raise InvalidValidators("one key twice")

    def get_power(self, indices: Iterable[int]) -> int:
        """Return the power of distinct `indices` together."""
        return sum(self.validators[index].power for index in indices)

    def has_quorum(self, indices: Iterable[int]) -> bool:
        """Tell whether distinct `indices` are a quorum."""
        return self.is_quorum(self.get_power(indices))

    def is_quorum(self, power: int) -> bool:
        """Tell whether so much power is strictly more than 2/3 of all."""
        return 3 * power > 2 * self.total_power

    def get_public_keys(self, indices: Iterable[int]) -> list[bytes]:
        """Return the keys of `indices`, in their order."""
        return [self.validators[index].public_key for index in indices]

    def find_index(self, public_key: bytes) -> int | None:
        """Return the index of the validator with that key, or None."""
        for index, validator in enumerate(self.validators):
            if validator.public_key == public_key:
                return index
        return None

    def compute_root(self) -> bytes:
        """Return the Merkle list root that headers commit to (`valset_root`)."""
        return compute_list_root([encode(v) for v in self.validators])


def encode_bitmap(indices: Iterable[int], size: int) -> bytes:
    """Return the bitmap of `indices` in a set of `size` validators."""
    bits = 0
    for index in indices:
        assert 0 <= index < size
        bits |= 1 << index
    return bits.to_bytes((size + 7) // 8, "little")


def decode_bitmap(bitmap: bytes, size: int) -> tuple[int, ...] | None:
    """Return the indices in ascending order, or None for anything but a bitmap."""
    if len(bitmap) != (size + 7) // 8:
        return None
    bits = int.from_bytes(bitmap, "little")
    if bits >> size:
        return None
    return tuple(index for index in range(size) if bits >> index & 1)

"""
The signatures that consensus needs, as an interface.

`primitives.bls` is the real one and fits as it is; simulations put a keyed hash in its
place.
"""

from collections.abc import Sequence
from typing import Protocol


class SignatureScheme(Protocol):
    """Signatures of one message that add up to one signature."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes, /) -> bool:
        """Tell whether `signature` is `public_key`'s over `message`; never raises."""

    def aggregate(self, signatures: Sequence[bytes], /) -> bytes:
        """Return the sum; raises RemoteError when one of them is no signature."""

    def fast_aggregate_verify(
        self, public_keys: Sequence[bytes], message: bytes, signature: bytes, /
    ) -> bool:
        """Tell whether all `public_keys` signed `message`; never raises."""

    def verify_batch(
        self, items: Sequence[tuple[Sequence[bytes], bytes, bytes]], /
    ) -> bool:
        """Tell whether every item would pass `fast_aggregate_verify`; never raises."""


class Signer(Protocol):
    """Somebody's secret key; `primitives.bls.BlsSecretKey` fits as it is."""

    @property
    def public_key(self) -> bytes:
        """The 48 bytes by which the validator set knows the signer."""

    def sign(self, message: bytes, /) -> bytes:
        """Return the 96-byte signature of `message`."""

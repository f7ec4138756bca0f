"""
Signatures of one message, verified in one sum and as late as possible.

Theory of operation
-------------------
Signatures of one message add up, so a quorum of them is verified with one pairing, not
with one each.  Until then something is pooled unverified, and a forged one may sit in
an honest signer's place.  Two rules keep that harmless:

- A second, different word of one signer ends the laziness for this signer: both are
  verified, forged ones go, and their senders are named.
- When a sum does not verify, halving finds the forged ones.

A sum says that its signers signed, not who sent which signature: those of two signers
may stand in each other's places.  That is as good for a certificate of both, and says
nothing of either alone.  So a sum leaves no mark on what is in it: without one of them,
or with another one, it is verified again, and an accusation verifies what it rests on
by itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from primitives.errors import RemoteError


class Signed(Protocol):
    """What a member of a validator set says and signs."""

    @property
    def signer(self) -> int:
        """Its place in the set."""

    @property
    def signature(self) -> bytes:
        """Of a message that its content tells."""


S = TypeVar("S", bound=Signed)


@dataclass(slots=True)
class Pooled(Generic[S]):
    """Something signed, with what is known about it."""

    signed: S
    sender: bytes | None
    """Who brought it; None for our own."""
    is_verified: bool
    """Alone, not just in a sum with others."""


class SumVerifier(ABC, Generic[S]):
    """Checks what the validators of one epoch sign, singly or many of one message."""

    def __init__(self, validators: ValidatorSet, scheme: SignatureScheme) -> None:
        self._validators = validators
        self._scheme = scheme

    @abstractmethod
    def build_message(self, signed: S) -> bytes:
        """Return what was signed."""

    def verify(self, signed: S) -> bool:
        """Tell whether the signer, who is in the set, signed it."""
        key = self._validators.validators[signed.signer].public_key
        return self._scheme.verify(key, self.build_message(signed), signed.signature)

    def settle(self, pooled: Pooled[S]) -> bool:
        """Verify it alone unless that is done; tell whether it is genuine."""
        if not pooled.is_verified:
            pooled.is_verified = self.verify(pooled.signed)
        return pooled.is_verified

    def find_forged(self, doubtful: Sequence[Pooled[S]]) -> list[Pooled[S]]:
        """Return which of those of one message must go for their sum to verify."""
        if not doubtful:
            return []
        is_true = self._verify_sum([pooled.signed for pooled in doubtful])
        if len(doubtful) == 1:
            doubtful[0].is_verified = is_true
        if is_true:
            return []
        if len(doubtful) == 1:
            return list(doubtful)
        middle = len(doubtful) // 2
        left, right = doubtful[:middle], doubtful[middle:]
        return self.find_forged(left) + self.find_forged(right)

    def _verify_sum(self, signed: Sequence[S]) -> bool:
        keys = self._validators.get_public_keys(each.signer for each in signed)
        try:
            total = self._scheme.aggregate([each.signature for each in signed])
        except RemoteError:
            return False
        message = self.build_message(signed[0])
        return self._scheme.fast_aggregate_verify(keys, message, total)

"""
Endorsements of one chunk, verified as late as possible.

Theory of operation
-------------------
All endorsements of a chunk sign one message, so enough of them are verified with one
pairing.  Until then a forged one may sit in an honest member's place; two rules keep
that harmless, as they do for votes (consensus/pool.py):

- An endorsement that differs from another one of its signer for the slot ends the
  laziness for this signer: both are verified, forged ones go, and senders are named.
- When the sum does not verify, halving finds the forged ones.

A sum says that its signers signed, not who sent which signature: two liars can swap
theirs.  That is as good for a certificate of both, and says nothing of either alone; so
a sum leaves no mark, and an accusation verifies what it rests on by itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from primitives.errors import RemoteError
from shards.certificate import compute_endorsement_bytes
from shards.messages import Endorsement


@dataclass(slots=True)
class PooledEndorsement:
    """An endorsement with what is known about it."""

    endorsement: Endorsement
    sender: bytes | None
    """Who brought it; None for our own."""
    is_verified: bool
    """Alone, not just in a sum with others."""


class EndorsementVerifier:
    """Checks endorsements of one epoch, singly or many of one chunk at once."""

    def __init__(
        self, chain_id: bytes, validators: ValidatorSet, scheme: SignatureScheme
    ) -> None:
        self._chain_id = chain_id
        self._validators = validators
        self._scheme = scheme

    def verify(self, endorsement: Endorsement) -> bool:
        """Tell whether the signer, who is in the set, signed it."""
        key = self._validators.validators[endorsement.signer].public_key
        message = compute_endorsement_bytes(
            self._chain_id, endorsement.slot, endorsement.chunk_hash
        )
        return self._scheme.verify(key, message, endorsement.signature)

    def settle(self, pooled: PooledEndorsement) -> bool:
        """Verify an endorsement unless that is done; tell whether it is genuine."""
        if not pooled.is_verified:
            pooled.is_verified = self.verify(pooled.endorsement)
        return pooled.is_verified

    def find_forged(
        self, doubtful: Sequence[PooledEndorsement]
    ) -> list[PooledEndorsement]:
        """Return which of those of one chunk must go for their sum to verify."""
        if not doubtful:
            return []
        is_true = self._verify_sum([pooled.endorsement for pooled in doubtful])
        if len(doubtful) == 1:
            doubtful[0].is_verified = is_true
        if is_true:
            return []
        if len(doubtful) == 1:
            return list(doubtful)
        middle = len(doubtful) // 2
        left, right = doubtful[:middle], doubtful[middle:]
        return self.find_forged(left) + self.find_forged(right)

    def _verify_sum(self, endorsements: list[Endorsement]) -> bool:
        first = endorsements[0]
        message = compute_endorsement_bytes(
            self._chain_id, first.slot, first.chunk_hash
        )
        keys = self._validators.get_public_keys(e.signer for e in endorsements)
        try:
            total = self._scheme.aggregate([e.signature for e in endorsements])
        except RemoteError:
            return False
        return self._scheme.fast_aggregate_verify(keys, message, total)


class EndorsementPool:
    """At most one endorsement of one chunk per committee member."""

    def __init__(self) -> None:
        self._entries: dict[int, PooledEndorsement] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def signers(self) -> tuple[int, ...]:
        """Whose endorsements are here, verified or not."""
        return tuple(self._entries)

    def get(self, signer: int) -> PooledEndorsement | None:
        """Return a member's endorsement."""
        return self._entries.get(signer)

    def get_doubtful(self) -> list[PooledEndorsement]:
        """Return those that are not verified yet."""
        return [pooled for pooled in self._entries.values() if not pooled.is_verified]

    def get_signatures(self) -> dict[int, bytes]:
        """Return the signatures by signer."""
        return {
            signer: pooled.endorsement.signature
            for signer, pooled in self._entries.items()
        }

    def add(self, pooled: PooledEndorsement) -> None:
        """Keep an endorsement; in place of one of the same signer."""
        self._entries[pooled.endorsement.signer] = pooled

    def remove(self, gone: Iterable[PooledEndorsement]) -> None:
        """Forget endorsements that turned out to be forged."""
        for pooled in gone:
            del self._entries[pooled.endorsement.signer]

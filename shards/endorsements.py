"""
Endorsements of one chunk, verified as late as possible.

consensus/sums.py says when, and why that is harmless.
"""

from collections.abc import Iterable

from consensus.scheme import SignatureScheme
from consensus.sums import Pooled, SumVerifier
from consensus.validators import ValidatorSet
from shards.certificate import compute_endorsement_bytes
from shards.messages import Endorsement

PooledEndorsement = Pooled[Endorsement]


class EndorsementVerifier(SumVerifier[Endorsement]):
    """Checks endorsements of one epoch, singly or many of one chunk at once."""

    def __init__(
        self, chain_id: bytes, validators: ValidatorSet, scheme: SignatureScheme
    ) -> None:
        super().__init__(validators, scheme)
        self._chain_id = chain_id

    def build_message(self, signed: Endorsement) -> bytes:
        """Return what endorsers of its chunk sign."""
        return compute_endorsement_bytes(self._chain_id, signed.slot, signed.chunk_hash)


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
            signer: pooled.signed.signature for signer, pooled in self._entries.items()
        }

    def add(self, pooled: PooledEndorsement) -> None:
        """Keep an endorsement; in place of one of the same signer."""
        self._entries[pooled.signed.signer] = pooled

    def remove(self, gone: Iterable[PooledEndorsement]) -> None:
        """Forget endorsements that turned out to be forged."""
        for pooled in gone:
            del self._entries[pooled.signed.signer]

"""
Reads of evidence that final blocks applied; a part of chain/queries/queries.py.

A block's evidence says what happened, the events of its system step say what that cost
whom, and both name the piece by its id.
"""

from dataclasses import dataclass

from chain.errors import StoreError
from chain.queries.paging import PAGE, Page, build_page, iterate_keys
from chain.records.pieces import (
    Misdeed,
    Piece,
    compute_piece_id,
    decode_piece,
    get_misdeed,
    get_piece_place,
)
from chain.rewarding.slashing import REWARD_EVENT, SLASH_EVENT
from chain.storage.store import ChainStore
from primitives.types import Epoch, Height, View


@dataclass(frozen=True, slots=True)
class FoundEvidence:
    """A piece that a final block applied."""

    evidence_id: bytes
    piece: Piece
    height: Height
    """Of the block that included it."""
    misdeed: Misdeed
    epoch: Epoch
    """When it happened; also the view."""
    view: View
    taken: tuple[tuple[bytes, int], ...]
    """(account, atoms) of those it convicted: what was taken at once."""
    reward: tuple[bytes, int] | None
    """(account, atoms) of the reporter, if there was anything to earn."""


class EvidenceQueries:
    """All reads about who was convicted of what."""

    def __init__(self, store: ChainStore) -> None:
        self._store = store

    def list_evidence(
        self, after: str | None = None, limit: int = PAGE
    ) -> Page[FoundEvidence]:
        """Return applied evidence, newest first.

        Raises:
            InvalidCursor: `after` is not of this list.
        """
        keys = iterate_keys(self._store.kv, b"X", after)
        return build_page(keys, self._find, limit)

    def _find(self, key: bytes) -> FoundEvidence:
        height = int.from_bytes(key[1:9], "big")
        block = self._store.get_block(height)
        if block is None:
            raise StoreError(f"no block at height {height}, which has evidence")
        piece = decode_piece(block.body.evidence[key[9]])
        evidence_id = compute_piece_id(piece)
        epoch, view = get_piece_place(piece)
        events = [
            (event.kind, event.addresses[0], event.amount)
            for event in self._store.get_system_events(height)
            if event.object_id == evidence_id
            and event.kind in (SLASH_EVENT, REWARD_EVENT)
        ]
        rewards = [
            (who, amount) for kind, who, amount in events if kind == REWARD_EVENT
        ]
        return FoundEvidence(
            evidence_id=evidence_id,
            piece=piece,
            height=height,
            misdeed=get_misdeed(piece),
            epoch=epoch,
            view=view,
            taken=tuple(
                (who, amount) for kind, who, amount in events if kind == SLASH_EVENT
            ),
            reward=rewards[0] if rewards else None,
        )

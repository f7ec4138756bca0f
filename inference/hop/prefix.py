"""What a session at a hop shares with sessions before and after it."""

from collections.abc import Sequence

from inference.device.memory import PAGE_TOKENS
from inference.protocol.messages import SessionTerms
from inference.protocol.page_messages import PageGrant
from primitives.hashing import compute_hash


def derive_keys(
    owner: SessionTerms | PageGrant, scope: bytes, names: Sequence[bytes]
) -> tuple[bytes, ...]:
    """Return a hop's keys for a requester's names."""
    layers = owner.start.to_bytes(2, "big") + owner.end.to_bytes(2, "big")
    whose = compute_hash(
        "prefix-owner", owner.client, owner.signer, owner.profile, layers, scope
    )
    return tuple(compute_hash("prefix-key", whose, name) for name in names)


class HopPrefix:
    """The names of a session's beginnings, as keys of this hop.

    Args:
        terms: What the session was opened with: only the account and signer that they
            name will find its pages.
        scope: What the requester says its names are valid with.
    """

    def __init__(self, terms: SessionTerms, scope: bytes) -> None:
        self._terms = terms
        self._scope = scope
        self._keys: tuple[bytes, ...] = ()
        self._kept = 0
        """Pages that were kept."""
        self._is_over = False

    def derive_keys(self, names: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return a hop's keys for a requester's names."""
        return derive_keys(self._terms, self._scope, names)

    def begin(self, keys: tuple[bytes, ...], pages: int) -> None:
        """Take the prompt's keys, of which so many are here already."""
        self._keys, self._kept = keys, pages

    def advance(self, end: int) -> tuple[int, tuple[bytes, ...]]:
        """Return the first page that has become full up to `end`, and their keys."""
        first, last = self._kept, min(end // PAGE_TOKENS, len(self._keys))
        if self._is_over or last <= first:
            return 0, ()
        self._kept = last
        return first, self._keys[first:last]

    def finish(self, names: Sequence[bytes], end: int) -> tuple[int, tuple[bytes, ...]]:
        """Return the same for the whole sequence, which may be another than asked."""
        if self._is_over:
            return 0, ()
        self._keys, self._kept = self.derive_keys(names), 0
        return self.advance(end)

    def stop(self) -> None:
        """Keep nothing more: what comes now came over another route."""
        self._is_over = True

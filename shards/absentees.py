"""
Who let a turn pass, and how long the next in rank waits because of it.

Theory of operation
-------------------
    rank 0        rank 1    rank 2          rank 0 is awaited, 1 and 2 were silent
    |-- Delta ----|- brief -|- brief -| ...

A producer that is slow must not be doubled by everybody behind it, and one that is
silent must not cost the shard its slot: what is not produced in its view is not
produced, and a view may last no longer than two Delta.  So everybody is awaited for a
Delta at first; who lets that pass, and has no reason to, is awaited briefly from then
on, until a chunk of its is certified.  Nothing less counts: a signature costs nothing.

Everybody has marks of its own and nobody's chunk is worth less for them; they only
tell from when on a later rank is taken.
"""

from collections.abc import Iterable

from primitives.types import ShardId


class Absentees:
    """Producers that were silent last time, by shard.

    Args:
        turn_ms: How long those are awaited that are not among them.
        brief_turn_ms: And those that are.
    """

    def __init__(self, turn_ms: int, brief_turn_ms: int) -> None:
        self._turn_ms = turn_ms
        self._brief_turn_ms = brief_turn_ms
        self._marks: set[tuple[ShardId, bytes]] = set()

    def compute_turn_ms(self, shard: ShardId, public_key: bytes) -> int:
        """Return how long a producer's turn lasts before the next one's begins."""
        is_absent = (shard, public_key) in self._marks
        return self._brief_turn_ms if is_absent else self._turn_ms

    def add(self, shard: ShardId, public_key: bytes) -> None:
        """A producer let its turn pass."""
        self._marks.add((shard, public_key))

    def discard(self, shard: ShardId, public_key: bytes) -> None:
        """A chunk of it is certified."""
        self._marks.discard((shard, public_key))

    def retain(self, shards: Iterable[ShardId], public_keys: Iterable[bytes]) -> None:
        """Forget who cannot produce in the epoch that begins: its shards and keys."""
        here, known = set(shards), set(public_keys)
        self._marks = {(s, key) for s, key in self._marks if s in here and key in known}

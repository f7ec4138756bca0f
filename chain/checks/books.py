"""
Verifying the books of a database by counting every atom.
"""

import msgspec

from chain.checks.conservation import count_packets
from chain.checks.findings import Findings
from chain.errors import StoreError
from chain.storage.books import Books, count_books, get_books
from chain.storage.final_state import FinalState
from chain.storage.store import ChainReader, build_key
from primitives.buckets import CorruptBucket, decode_bucket
from primitives.codec import decode
from primitives.errors import DecodeError
from primitives.types import Height, ShardId


class BooksSearch:
    """Counts all shards."""

    def __init__(
        self, store: ChainReader, state: FinalState, findings: Findings
    ) -> None:
        """
        Args:
            store: The database.
            state: Over the same database, not loaded.
            findings: Where to note what is wrong.
        """
        self._store = store
        self._state = state
        self._findings = findings
        self.books: dict[ShardId, Books] = {}
        """By counting."""

    def check(self, last: Height) -> None:
        """Count all atoms; compare with the books, and both sides of the books."""
        state = self._state
        heads = {shard: self._store.get_last_chunk(shard) for shard in state.shards}
        away = under_way = 0
        for shard in state.followed:
            self._check_old_books(shard)
            try:
                under_way += count_packets(self._store, heads, shard)
                counted = self._count(state, shard)
            except StoreError as error:
                message = f"shard {shard} cannot be counted: {error}"
                self._findings.add("books", message, shard=shard)
                continue
            written = get_books(state, shard, last)
            if written is not None:
                counted = _with_away(counted, written.away)
            self.books[shard] = counted
            away += counted.away
            if written is not None and counted != written:
                self._findings.add(
                    "books",
                    f"the books of shard {shard} are not what counting gives",
                    shard=shard,
                    height=last,
                )
            if written is not None and not counted.is_conserved:
                self._add_unbalanced(shard, counted, last)
        if len(self.books) == len(state.shards) and away != under_way:
            self._findings.add(
                "packet",
                f"{away} atoms are away from their shards and {under_way} are in "
                f"packets under way",
                height=last,
            )

    def _count(self, state: FinalState, shard: ShardId) -> Books:
        """Count a shard that can be read."""
        buckets = (decode_bucket(data) for _, data, _ in state.iterate_buckets(shard))
        try:
            counted = count_books(buckets, 0)
        except (DecodeError, CorruptBucket) as error:
            raise StoreError(f"a record in it is not one: {error}") from error
        return _with_away(counted, counted.created - counted.held)

    def _check_old_books(self, shard: ShardId) -> None:
        for key, data in self._state.store.iterate(build_key(b"J", (shard, 2))):
            height = int.from_bytes(key[3:], "big")
            try:
                books = decode(Books, data)
            except DecodeError as error:
                self._findings.add(
                    "books",
                    f"the books of shard {shard} after block {height}: {error}",
                    shard=shard,
                    height=height,
                )
                continue
            if not books.is_conserved:
                self._add_unbalanced(shard, books, height)

    def _add_unbalanced(self, shard: ShardId, books: Books, height: Height) -> None:
        self._findings.add(
            "books",
            f"shard {shard} holds {books.held} atoms after block {height}, and "
            f"{books.created} came into being there",
            shard=shard,
            height=height,
        )


def _with_away(books: Books, away: int) -> Books:
    return msgspec.structs.replace(books, away=away)

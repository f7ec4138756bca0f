"""
Reads of chunks: who made and endorsed them, who may now; a part of
chain/queries/queries.py.

Lists take chunk headers from their own records, which every node has of every shard;
bodies are in the hands of those who follow it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from chain.errors import HistoryAbsent, ShardNotFollowed
from chain.ledger.halts import read_halts
from chain.queries.paging import PAGE, Page, build_page, iterate_keys
from chain.records.block import Block
from chain.state.stored_buckets import build_bucket_key, unpack_bucket
from chain.storage.store import build_key
from chain.tree.blocktree import BlockTree
from consensus.validators import decode_bitmap
from primitives.buckets import compute_bucket_count, decode_bucket
from primitives.types import Height, ShardId
from shards.certificate import ChunkCertificate
from shards.chunk import ChunkHeader, get_count
from shards.committee import Committee, draw_committee
from shards.fraud import Halt
from shards.layout import ROOT_SHARD
from shards.slots import Slot, get_slot

COUNTED_BUCKETS = 64
"""Buckets that are read to say how many keys a shard has: a millisecond."""


@dataclass(frozen=True, slots=True)
class FoundHeader:
    """A chunk's header, and where it is."""

    height: Height
    """Of the block that holds it."""
    header: ChunkHeader


@dataclass(frozen=True, slots=True)
class Duty:
    """Who may fill a slot of the running epoch, and who judges."""

    slot: Slot
    producers: tuple[int, ...]
    """Indices in the epoch's set, the first in rank first."""
    committee: Committee
    hosts: tuple[int, ...]
    """Of the shard, for the whole epoch: the first turns in a slot are theirs."""
    custodians: tuple[int, ...]
    """Of the shard, for the whole epoch: the last turns."""


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many keys a shard's state has."""

    keys: int
    is_exact: bool
    """False: reckoned from the first `COUNTED_BUCKETS` that are not empty."""


class ShardQueries:
    """Answers from the final chain."""

    def __init__(
        self, tree: BlockTree, load_block: Callable[[Height], Block | None]
    ) -> None:
        self._tree = tree
        self._load_block = load_block

    def list_headers(
        self, shard: ShardId, after: str | None = None, limit: int = PAGE
    ) -> Page[FoundHeader]:
        """Return a shard's chunks, newest first, without the genesis one.

        Raises:
            InvalidCursor: `after` is not of this list.
        """
        prefix = build_key(b"K", (shard, 2))
        keys = iterate_keys(self._tree.store.kv, prefix, after)
        first = build_key(b"K", (shard, 2), (0, 8))
        return build_page((key for key in keys if key > first), self._find, limit)

    def get_header(self, shard: ShardId, seq: int) -> FoundHeader | None:
        """Return a shard's chunk by its number; the first after genesis is 1."""
        height = self._tree.store.get_chunk_height(shard, seq)
        return None if height is None else self.find_header(shard, height)

    def find_chunk(self, chunk_hash: bytes) -> FoundHeader | None:
        """Return a chunk by its name."""
        place = self._tree.store.find_chunk(chunk_hash)
        return None if place is None else self.find_header(*place)

    def find_header(self, shard: ShardId, height: Height) -> FoundHeader | None:
        """Return the chunk of a shard in the block at a height."""
        header = self._tree.store.get_chunk_header(shard, height)
        return None if header is None else FoundHeader(height, header)

    def count_consumed(self, header: ChunkHeader, height: Height) -> int:
        """Return how many packets a chunk consumed; headers alone tell.

        Args:
            header: Of the chunk.
            height: Of its block.
        """
        before = self._tree.store.find_last_chunk(header.shard, height - 1)
        cursors = () if before is None else before.in_cursor
        return sum(c.count - get_count(cursors, c.shard) for c in header.in_cursor)

    def get_certificate(self, header: ChunkHeader) -> ChunkCertificate | None:
        """Return what made a final chunk includable.

        Returns:
            None for the root shard, whose chunks everybody executes, and for chunks
            from before our history.
        """
        height = self._tree.store.get_chunk_height(header.shard, header.seq)
        if height is None or header.shard == ROOT_SHARD:
            return None
        try:
            block = self._load_block(height)
        except HistoryAbsent:
            return None
        certified = () if block is None else block.body.chunks
        for each in certified:
            if each.header == header:
                return each.certificate
        return None

    def get_duty(self, shard: ShardId, view: int) -> Duty | None:
        """Return who produces and endorses a shard's chunk of a view of this epoch.

        Returns:
            None where there is no such thing: the root shard's chunk is the leader's.
        """
        roles = self._tree.final.child_epoch.roles
        slot = Slot(roles.epoch, shard, view)
        if not roles.has_slot(slot):
            return None
        entry = roles.get_shard_producers(shard)
        return Duty(
            slot,
            roles.get_producers(slot),
            roles.get_committee(slot),
            entry.hosts,
            entry.custodians,
        )

    def compute_committee(self, header: ChunkHeader, seed: bytes) -> Committee | None:
        """Return who could endorse a chunk.

        Args:
            header: Of a final chunk.
            seed: Of its epoch.
        """
        validators = self._tree.store.get_validators(header.epoch)
        if header.epoch == 0:
            validators = self._tree.spec.first_validators
        if validators is None or header.shard == ROOT_SHARD:
            return None
        slot = get_slot(header)
        powers = [validator.power for validator in validators.validators]
        return draw_committee(seed, slot.shard, slot.created_view, powers)

    def get_halt(self, shard: ShardId) -> Halt | None:
        """Return why a shard goes on no more; None: it does."""
        view = self._tree.final.view
        for halt in read_halts(lambda key: view.get(ROOT_SHARD, key)):
            if halt.shard == shard:
                return halt
        return None

    def count_keys(self, shard: ShardId) -> KeyCount:
        """Return how many keys a shard's state has, or about how many.

        Keys are spread over the buckets by their hashes, so the first ones tell of all.

        Raises:
            ShardNotFollowed: Its state is not here.
        """
        if shard not in self._tree.followed:
            raise ShardNotFollowed(shard)
        keys = 0
        prefix = build_bucket_key(shard, 0)[:3]
        stored_buckets = self._tree.store.kv.iterate(prefix)
        for number, (key, stored) in enumerate(stored_buckets):
            index = int.from_bytes(key[3:], "big")
            if number == COUNTED_BUCKETS:
                buckets = compute_bucket_count(self._tree.spec.params.bucket_levels)
                return KeyCount(keys * buckets // index, is_exact=False)
            keys += len(decode_bucket(unpack_bucket(shard, index, stored)[0]))
        return KeyCount(keys, is_exact=True)

    def _find(self, key: bytes) -> FoundHeader | None:
        shard = int.from_bytes(key[1:3], "big")
        return self.find_header(shard, int.from_bytes(key[3:], "big"))


def list_signers(certificate: ChunkCertificate, validators: int) -> tuple[int, ...]:
    """Return who endorsed, as indices in the set of the chunk's epoch."""
    return tuple(decode_bitmap(certificate.bitmap, validators) or ())

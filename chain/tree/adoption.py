"""
Beginning to follow a shard: its state at a boundary, then its chunks from there on.

Theory of operation
-------------------
    boundary of our chain         our final blocks
        | head.post_root              | chunk headers
     parts --write--> buckets --execute--> buckets --adopt--> followed
        from peers              ^ bodies from peers

All roots are here already: a chain has the newest chunk header of every shard, also of
those that it does not follow.  So a part is judged by a root of our own, a body by a
header of our own, and what executing gives by that same header.  Nobody is believed,
and of peers nothing is needed but bytes.

Buckets are written where they belong as they come.  Nothing reads them there: a shard
is followed when `FOLLOW_KEY` says so, which is the last write of all, and what is
there of a shard that is not followed is deleted when the database is opened and when
an adoption begins.  So a crash between any two writes leaves a shard that is not
followed at all.  Index entries that came along stay: they tell of final blocks, and
are true.

An adoption has a state of its own beside the chain's, with a tree that grows as parts
come; `BlockTree.adopt` takes the tree over.  Its steps touch no part of the block tree
and may run in a thread beside it; most are as long as a part or a chunk.

Spec: docs/protocol/14-state-sync.md
"""

from collections.abc import Mapping
from dataclasses import dataclass

from chain.errors import InvalidSnapshot
from chain.execution.chunk import (
    ChunkBody,
    execute_chunk,
    fill_header,
    validate_filled,
)
from chain.execution.chunk_run import ChunkResult
from chain.execution.verified import VerifiedCache
from chain.records.channel import Channel, ChannelStatus
from chain.records.header import compute_block_hash
from chain.records.keys import build_channel_key
from chain.records.spec import ChainSpec
from chain.snapshots.installing import read_part_changes
from chain.snapshots.snapshot import PartPlace, SnapshotShard, compute_frontier_root
from chain.state.chunk_state import ShardState
from chain.state.state import StateView
from chain.storage.books import (
    Books,
    add_books,
    balance_books,
    build_books_key,
    compute_books_changes,
    count_books,
)
from chain.storage.final_state import FinalState
from chain.storage.index import Changes, index_chunk, index_emitted, index_objects
from chain.storage.store import ChainStore, build_body_key, build_key, forget_shard
from chain.tree.past_chunks import FinalChunk
from chain.tree.processing import build_claim, validate_sources
from primitives.buckets import EMPTY_HASHES
from primitives.codec import encode
from primitives.treetable import TreeTable, compute_group_update
from primitives.types import Height, ShardId
from shards.chunk import Chunk, ChunkHeader, compute_chunk_hash
from shards.packet import build_packet_proofs


@dataclass(frozen=True, slots=True)
class Base:
    """A boundary of our own chain, where an adoption begins."""

    height: Height
    block_hash: bytes
    head: ChunkHeader
    """The shard's newest chunk then."""

    @property
    def shard(self) -> ShardId:
        """The shard to follow."""
        return self.head.shard

    @property
    def root(self) -> bytes:
        """Of its state then: nothing but chunks changes a layer shard's state."""
        return self.head.post_root


@dataclass(frozen=True, slots=True)
class _Executed:
    """A block with one shard's chunk executed, as the books want it."""

    height: Height
    view: StateView
    results: Mapping[ShardId, ChunkResult]


def find_base(store: ChainStore, shard: ShardId, height: Height) -> Base | None:
    """Return where the adoption of a shard can begin; None: not at that height."""
    header, head = store.get_header(height), store.find_last_chunk(shard, height)
    if header is None or head is None:
        return None
    return Base(height, compute_block_hash(header), head)


def read_frontier(base: Base, frontier: SnapshotShard, levels: int) -> SnapshotShard:
    """Return a frontier that somebody gave, once it is that of a shard's root.

    Raises:
        InvalidSnapshot: It is of another shard, tree or root.
    """
    if (frontier.shard, frontier.levels) != (base.shard, levels):
        raise InvalidSnapshot("the parts of another shard, or of another tree")
    if frontier.head != base.head:
        raise InvalidSnapshot("another newest chunk than our chain has")
    if compute_frontier_root(levels, frontier.parts) != base.root:
        raise InvalidSnapshot("the parts are not those of the shard's root")
    return frontier


class Adoption:
    """One shard's state on its way into a database.

    `clear`, then every part or `put_known`, then `finish_parts`; then `execute` chunk
    after chunk until `height` is that of the last final block.

    Args:
        spec: The chain.
        store: Its database.
        base: Where to begin.
    """

    def __init__(self, spec: ChainSpec, store: ChainStore, base: Base) -> None:
        self.spec = spec
        self.base = base
        self.height = base.height
        """Of the block up to which the shard's chunks are executed."""
        self._store = store
        self._state = FinalState(store.kv, (base.shard,), spec.params.bucket_levels)
        self._books = Books()
        self._verified = VerifiedCache()

    @property
    def shard(self) -> ShardId:
        """The shard to follow."""
        return self.base.shard

    @property
    def root(self) -> bytes:
        """Of its state as far as it is here."""
        return self._state.get_root(self.shard)

    @property
    def table(self) -> TreeTable:
        """Its tree."""
        return self._state.get_table(self.shard)

    # The state at the boundary

    def clear(self) -> None:
        """Delete what an earlier time left of the shard."""
        forget_shard(self._store.kv, self.shard)

    def put_part(self, place: PartPlace, data: bytes) -> None:
        """Write a part.

        Raises:
            InvalidSnapshot: It is not the one of that place.
            StoreError: The disk failed.
        """
        part = read_part_changes(place, data)
        self._store.kv.write(part.changes, sync=True)
        self._books = add_books(self._books, part.books)
        if part.digests:
            table = self.table
            table.apply(
                *compute_group_update(table.get_group, part.digests, table.levels)
            )

    @property
    def is_known(self) -> bool:
        """Whether the state at the boundary needs no parts: empty, or of genesis."""
        is_first = self.base.height == 0 and self.shard in self.spec.state
        return is_first or self.base.root == EMPTY_HASHES[self._state.levels]

    def put_known(self) -> None:
        """Write a state that needs no parts."""
        pairs = self.spec.state.get(self.shard) if self.base.height == 0 else None
        if not pairs:
            return
        view = StateView.from_final(self._state).compute_child({self.shard: pairs})
        changes: Changes = self._state.compute_changes(view)
        index_objects(changes, self.shard, pairs)
        self._store.kv.write(changes, sync=True)
        self._state.fold(view)
        buckets = [bucket.pairs for bucket in view.buckets.values()]
        self._books = count_books(buckets, 0)

    def finish_parts(self) -> None:
        """Check that the state is whole, and begin its books.

        Raises:
            InvalidSnapshot: It is not the boundary's.
        """
        if self.root != self.base.root:
            raise InvalidSnapshot("the parts together are not the shard's state")
        key = build_books_key(self.shard, self.height)
        books = encode(balance_books(self._books))
        self._store.kv.write({key: books}, sync=True)
        self._sweep_channels()

    def _sweep_channels(self) -> None:
        """Forget channels that ended while the shard was not followed.

        They are listed as open since it was followed last; how they ended is not known.
        """
        over: Changes = {}
        channels = self._store.iterate(b"Z", Channel)
        for _, channel in channels:
            is_ours = channel.shard == self.shard
            if not is_ours or channel.status == ChannelStatus.CLOSED:
                continue
            name = channel.channel_id
            key = build_channel_key(name)
            if ShardState(self._view, self.shard).get(key) is None:
                over[build_key(b"Z", name)] = None
                for party in (channel.payer, channel.payee):
                    opened = (channel.opened_height, 8)
                    over[build_key(b"Y", party, opened, name)] = None
        if over:
            self._store.kv.write(over, sync=True)

    # From there on

    @property
    def _view(self) -> StateView:
        return StateView.from_final(self._state)

    def execute(self, chunk: FinalChunk, body: ChunkBody) -> None:
        """Execute the shard's next chunk and write what it brought about.

        Args:
            chunk: The first above `height`.
            body: The one that its header binds.

        Raises:
            InvalidChunk: It does not do here what its header says: the shard cannot be
                followed past it.
            StoreError: The disk failed.
        """
        header, shard = chunk.header, self.shard
        validate_sources(body.packets, chunk.branch)
        before = self._view
        done = execute_chunk(
            chunk.context,
            ShardState(before, shard),
            body,
            build_claim(self.spec.params, header),
            self._verified,
        )
        view = before.compute_child_with({shard: done.buckets})
        roots = before.get_root(shard), view.get_root(shard)
        validate_filled(header, fill_header(header, done.result, *roots))
        executed = _Executed(chunk.height, view, {shard: done.result})
        changes: Changes = self._state.compute_changes(view)
        changes.update(compute_books_changes(self._state, [executed]))
        whole = Chunk(header, body.transactions, body.packets)
        index_chunk(changes, chunk.height, whole, done.result)
        index_emitted(changes, build_packet_proofs(done.result.emitted, chunk.height))
        changes[build_body_key(compute_chunk_hash(header))] = encode(body)
        self._store.kv.write(changes, sync=True)
        self._state.fold(view)
        self.height = chunk.height

    def skip(self, height: Height) -> None:
        """Hear that no block up to `height` has a further chunk of the shard."""
        self.height = max(self.height, height)

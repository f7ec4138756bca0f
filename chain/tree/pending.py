"""
Pending blocks: judged, executed, and not final yet.

Theory of operation
-------------------
    final --+-- a1 -- a2 -- a3        saved: on disk, never evicted
            +-- b1                    unsaved: the leaf of the lowest view goes first

They are held in memory with their states.  `save` writes the bytes of a block and of
its ancestors, so that a crash of everybody loses nothing that was certified.  A parent
is never evicted before its children, so every pending block has a way down to the
final one.  `take_evicted` tells who is gone: whoever counts on one fetches it again.
"""

from collections.abc import Callable, Iterator, Mapping

from chain.errors import MissingBodies, TooManyPending, UnknownBlock
from chain.execution.chunk import ChunkBody, ExecutedChunk
from chain.execution.held import HeldBlock
from chain.records.block import Block
from chain.records.header import compute_block_hash
from chain.storage.index import Changes, compute_body_changes
from chain.storage.store import ChainStore, build_body_key, build_key
from chain.tree.processing import Processed, compute_emitted
from primitives.codec import encode
from primitives.types import ShardId
from shards.chunk import compute_chunk_hash

MAX_UNSAVED = 320
"""Blocks that are not known to be certified: 256 of one catch-up lot, which comes with
one certificate for all, and a minute of views, each worth at most 1 MiB."""

MAX_SAVED = 4096
"""Certified blocks that are not final yet; each one took a quorum and a view, so this
is more than an hour in which every view got a block and none became final."""


class PendingBlocks:
    """The blocks above the final one, by hash.

    Args:
        store: Where `save` writes them.
    """

    def __init__(self, store: ChainStore) -> None:
        self._store = store
        self._blocks: dict[bytes, HeldBlock] = {}
        self._saved: set[bytes] = set()
        self._evicted: set[bytes] = set()
        """Since `take_evicted` was called last."""

    def __contains__(self, block_hash: bytes) -> bool:
        return block_hash in self._blocks

    def get(self, block_hash: bytes) -> HeldBlock | None:
        """Return a pending block, or None."""
        return self._blocks.get(block_hash)

    def list_blocks(self) -> tuple[HeldBlock, ...]:
        """Return all of them, parents before children."""
        return tuple(sorted(self._blocks.values(), key=lambda held: held.height))

    def walk(self, block_hash: bytes) -> Iterator[HeldBlock]:
        """Yield a block and its pending ancestors, newest first; else nothing."""
        held = self._blocks.get(block_hash)
        while held is not None:
            yield held
            held = self._blocks.get(held.parent_hash)

    def find_descendants(self, target: HeldBlock) -> dict[bytes, HeldBlock]:
        """Return every pending block above `target`."""
        found: dict[bytes, HeldBlock] = {}
        for held in self.list_blocks():
            if held.parent_hash == target.block_hash or held.parent_hash in found:
                found[held.block_hash] = held
        return found

    def add(self, held: HeldBlock, *, is_saved: bool = False) -> None:
        """Hold a block.

        Args:
            held: Its parent is pending or final.
            is_saved: Whether it was read from disk.

        Raises:
            TooManyPending: No room and nothing to evict.
        """
        if len(self._blocks) - len(self._saved) >= MAX_UNSAVED:
            self._evict(held.parent_hash)
        if len(self._blocks) >= MAX_SAVED + MAX_UNSAVED:
            raise TooManyPending(f"{len(self._blocks)} blocks and none becomes final")
        self._blocks[held.block_hash] = held
        self._evicted.discard(held.block_hash)
        if is_saved:
            self._saved.add(held.block_hash)

    def take_evicted(self) -> tuple[bytes, ...]:
        """Return what was evicted since the last call, and has not come again."""
        evicted, self._evicted = tuple(sorted(self._evicted)), set()
        return evicted

    def save(self, block_hash: bytes) -> None:
        """Make a block and its pending ancestors survive a crash; returns after that.

        Raises:
            UnknownBlock: It is not pending.
        """
        if block_hash not in self._blocks:
            raise UnknownBlock(block_hash)
        unsaved = [
            held for held in self.walk(block_hash) if held.block_hash not in self._saved
        ]
        if unsaved:
            changes: Changes = {}
            for held in unsaved:
                changes[build_key(b"U", held.block_hash)] = held.block_bytes
                changes.update(compute_body_changes(held))
            self._store.kv.write(changes, sync=True)
            self._saved.update(held.block_hash for held in unsaved)

    def find_body(self, chunk_hash: bytes) -> ChunkBody | None:
        """Return the body of a chunk that a pending block holds."""
        for held in self._blocks.values():
            body = held.bodies.get(chunk_hash)
            if body is not None:
                return body
        return None

    def replace(self, held: HeldBlock) -> None:
        """Hold a block with other consequences than before."""
        assert held.block_hash in self._blocks
        self._blocks[held.block_hash] = held

    def collect_bodies(
        self, shard: ShardId, find: Callable[[bytes], ChunkBody | None]
    ) -> Changes:
        """Return what keeps the bodies of a shard's chunks in saved blocks.

        Args:
            shard: Whose blocks were held without them.
            find: Returns a body by its chunk's hash, if it is here.

        Raises:
            MissingBodies: Some are not here, of all pending blocks.
        """
        changes: Changes = {}
        missing = []
        for held in self.list_blocks():
            header = held.block.body.find_header(shard)
            if header is None:
                continue
            chunk_hash = compute_chunk_hash(header)
            body = find(chunk_hash)
            if body is None:
                missing.append(header)
            elif held.block_hash in self._saved:
                changes[build_body_key(chunk_hash)] = encode(body)
        if missing:
            raise MissingBodies(missing)
        return changes

    def compute_forgotten(self, kept: Mapping[bytes, HeldBlock]) -> Changes:
        """Return what leaves the disk when only `kept` stay pending.

        Bodies among it may be those of blocks that are final now; those are written
        again in the same batch.
        """
        forgotten: Changes = {}
        needed = {name for held in kept.values() for name in held.bodies}
        for name in self._saved - kept.keys():
            forgotten[build_key(b"U", name)] = None
            for chunk_hash in self._blocks[name].bodies.keys() - needed:
                forgotten[build_body_key(chunk_hash)] = None
        return forgotten

    def retain(self, kept: dict[bytes, HeldBlock]) -> None:
        """Keep only `kept`, once the disk does."""
        self._blocks = kept
        self._saved &= kept.keys()

    def _evict(self, needed: bytes) -> None:
        """Drop the leaf of the lowest view that nobody asked to keep."""
        parents = {held.parent_hash for held in self._blocks.values()} | {needed}
        leaves = [
            held
            for held in self._blocks.values()
            if held.block_hash not in parents and held.block_hash not in self._saved
        ]
        if not leaves:
            raise TooManyPending(f"{len(self._blocks)} blocks in one line")
        lowest = min(leaves, key=lambda held: held.header.view)
        del self._blocks[lowest.block_hash]
        self._evicted.add(lowest.block_hash)


def build_held(
    block: Block,
    block_bytes: bytes,
    processed: Processed,
    known: Mapping[bytes, ExecutedChunk],
) -> HeldBlock:
    """Return a block with its consequences, ready to be held.

    Args:
        block: To hold.
        block_bytes: The same.
        processed: What it brought about.
        known: Chunks that we executed, by hash.  Who endorsed a chunk holds its body
            for others, also if it does not follow the shard.
    """
    system = processed.base.system
    results = processed.results
    bodies = {}
    for header in (each.header for each in processed.chunks):
        chunk_hash = compute_chunk_hash(header)
        done = results.get(header.shard)
        if done is None and chunk_hash in known:
            done = known[chunk_hash].result
        if done is not None:
            bodies[chunk_hash] = ChunkBody(done.consumed, done.transactions)
    return HeldBlock(
        block_hash=compute_block_hash(block.header),
        block=block,
        block_bytes=block_bytes,
        view=processed.view,
        heads=processed.heads,
        followed=processed.followed,
        results=results,
        bodies=bodies,
        strayed=processed.strayed,
        emitted=compute_emitted(processed, block.header.height),
        events=system.events,
        seen=system.seen,
        child_epoch=system.child_epoch,
    )

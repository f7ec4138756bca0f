"""A node that follows some shards, beside one that follows all, and takes on more."""

from chain_world import World

from chain.snapshots.building import build_frontier
from chain.snapshots.part import read_part
from chain.snapshots.snapshot import iterate_places
from chain.storage.store import ChainReader
from chain.tree.adoption import Adoption, Base, find_base, read_frontier
from chain.tree.blocktree import BlockTree
from chain.tree.following import Follow
from chain.tree.opening import open_tree
from chain.tree.past_chunks import list_past_boundaries
from primitives import bls
from primitives.buckets import EMPTY_HASHES
from primitives.kv import KeyValueStore, MemoryStore
from shards.chunk import compute_chunk_hash

ONE = Follow(frozenset({1}))


class Half:
    """A node that follows shard 1 of 1 and 2, fed by a world that follows both."""

    def __init__(self, world: World, store: KeyValueStore | None = None, follow=ONE):
        self.world = world
        self.store = MemoryStore() if store is None else store
        self.follow = follow
        self.open()

    def open(self) -> BlockTree:
        self.tree = open_tree(self.world.spec, self.store, bls, self.follow)
        return self.tree

    def add(self, held) -> None:
        """Hold a block that the world has made."""
        if self.tree.has(held.block_hash):
            return
        needed = {
            compute_chunk_hash(each.header): each.header
            for each in held.block.body.chunks
            if each.header.shard in self.tree.followed
        }
        for chunk_hash, header in needed.items():
            self.tree.keep_body(header, self.world.tree.get_body(chunk_hash))
        self.tree.add(held.block_bytes, held.header.time_ms, held.proposal)

    def take(self, held) -> None:
        """Hold a block and make it final."""
        self.add(held)
        self.tree.finalize(self.world.certify(held))

    def give(self, chunk) -> None:
        """Get the body of a final chunk."""
        name = compute_chunk_hash(chunk.header)
        self.tree.keep_body(chunk.header, self.world.tree.get_body(name))


class Source:
    """A full node's database as it was after a boundary."""

    def __init__(self, world: World):
        self.spec = world.spec
        self.store = world.store.freeze()
        self.height = world.tree.final_height

    def frontier(self, shard: int):
        making = build_frontier(self.spec, ChainReader(self.store), shard)
        while True:
            try:
                next(making)
            except StopIteration as stop:
                return stop.value

    def places(self, base: Base):
        levels = self.spec.params.bucket_levels
        frontier = read_frontier(base, self.frontier(base.shard), levels)
        return [
            place
            for place in iterate_places(frontier)
            if place.digest != EMPTY_HASHES[place.levels - place.depth]
        ]

    def read(self, place) -> bytes:
        *_, data = read_part(self.store, place.shard, place.first, place.count)
        return data


def begin(half: Half, shard: int, source: Source | None = None) -> Adoption:
    """Return an adoption with the state at a boundary: the source's, or genesis."""
    tree = half.tree
    height = 0 if source is None else source.height
    heights = list_past_boundaries(
        tree.epoch.epoch, tree.spec.params.epoch_blocks, tree.first_height
    )
    assert height in heights
    base = find_base(tree.store, shard, height)
    adoption = Adoption(tree.spec, tree.store, base)
    adoption.clear()
    if adoption.is_known:
        adoption.put_known()
    else:
        for place in source.places(base):
            adoption.put_part(place, source.read(place))
    adoption.finish_parts()
    return adoption


def catch_up(half: Half, adoption: Adoption) -> None:
    """Execute the shard's chunks up to the last final block."""
    while (chunk := half.tree.find_next_chunk(adoption)) is not None:
        half.give(chunk)
        body = half.tree.get_body(compute_chunk_hash(chunk.header))
        adoption.execute(chunk, body)


def adopt(half: Half, shard: int, source: Source | None = None) -> Adoption:
    """Do all of it."""
    adoption = begin(half, shard, source)
    catch_up(half, adoption)
    for held in half.tree.pending:
        header = held.block.body.find_header(shard)
        if header is not None:
            name = compute_chunk_hash(header)
            half.tree.keep_body(header, half.world.tree.get_body(name))
    half.tree.adopt(adoption)
    return adoption

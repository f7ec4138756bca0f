"""The states after the last boundaries, for whoever begins to follow a shard."""

from chain.records.spec import ChainSpec
from chain.snapshots.building import build_frontier
from chain.snapshots.part import read_part
from chain.snapshots.snapshot import iterate_places
from chain.storage.store import ChainReader
from p2pchain.sim.machine.questions import ShardState
from primitives.buckets import EMPTY_HASHES
from primitives.kv import FrozenStore

KEPT_STATES = 3
"""One more than a node that is a little behind asks for."""


class KeptStates:
    """The database as it was after the last boundaries, by block hash."""

    def __init__(self, spec: ChainSpec) -> None:
        self._spec = spec
        self._kept: dict[bytes, FrozenStore] = {}

    def keep(self, block_hash: bytes, store: FrozenStore) -> None:
        """Keep the state after a boundary block, and forget the oldest one."""
        self._kept[block_hash] = store
        while len(self._kept) > KEPT_STATES:
            del self._kept[next(iter(self._kept))]

    def collect(self, block_hash: bytes, shard: int) -> ShardState | None:
        """Return the state of a shard after a boundary, if it is kept."""
        store = self._kept.get(block_hash)
        if store is None:
            return None
        reader = ChainReader(store)
        if shard not in reader.get_followed():
            return None
        making = build_frontier(self._spec, reader, shard)
        frontier = None
        while frontier is None:
            try:
                next(making)
            except StopIteration as stop:
                frontier = stop.value
        parts = []
        for place in iterate_places(frontier):
            if place.digest != EMPTY_HASHES[place.levels - place.depth]:
                *_, data = read_part(store, shard, place.first, place.count)
                parts.append(data)
        return ShardState(frontier, tuple(parts))

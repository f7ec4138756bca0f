"""
A simulated node begins to follow shards, and lets others go, while it runs.

What p2pchain.node.state_sync.shard_sync does, on virtual time and with whole states for
parts:

    wanted --ask--> its state at a boundary --check, write--> chunks since --> followed

Every step may lose the power in any write; the next life begins anew.
"""

from functools import partial
from typing import TYPE_CHECKING

from chain.errors import InvalidSnapshot, MissingBodies, PastChunk
from chain.queries.foreign_packets import has_sent_packets
from chain.snapshots.snapshot import iterate_places
from chain.storage.store import forget_shard
from chain.tree.adoption import Adoption, Base, find_base, read_frontier
from chain.tree.past_chunks import list_past_boundaries
from p2pchain.sim.machine.questions import Answer, AskShard, ShardState
from primitives.buckets import EMPTY_HASHES
from primitives.types import ShardId
from shards.chunk import compute_chunk_hash
from shards.layout import ROOT_SHARD

if TYPE_CHECKING:
    from chain.tree.blocktree import BlockTree
    from p2pchain.sim.chains.tree_chain import TreeChain
    from p2pchain.sim.node import Node

TICK_MS = 300
"""Between two steps; a block may become final between any two."""
CHUNKS_A_STEP = 2
"""Few, so that an adoption takes several blocks."""


class ShardTaker:
    """One life of one node.

    Args:
        node: Whose it is.
        chain: That life's chain.
    """

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        self._node = node
        self._chain = chain
        self._adoption: Adoption | None = None

    @property
    def _tree(self) -> "BlockTree":
        return self._chain.tree

    def tick(self) -> None:
        """Do a step, and the next one a little later."""
        if not self._node.requests.is_catching_up:
            self._step()
        world = self._node.world
        world.after(TICK_MS, self._node, self._node.guard, self.tick)

    def _step(self) -> None:
        tree = self._tree
        wanted = tree.wanted | {ROOT_SHARD}
        unwanted = sorted(tree.followed - wanted)
        if unwanted:
            tree.drop(unwanted[0])
            forget_shard(tree.store.kv, unwanted[0])
        elif self._adoption is not None:
            self._go_on(self._adoption, wanted)
        elif missing := sorted((wanted & tree.running) - tree.followed):
            self._begin(missing[0])

    # The state at a boundary

    def _begin(self, shard: ShardId) -> None:
        tree = self._tree
        heights = list_past_boundaries(
            tree.epoch.epoch, tree.spec.params.epoch_blocks, tree.first_height
        )
        for height in heights:
            base = find_base(tree.store, shard, height)
            if base is None:
                continue
            adoption = Adoption(tree.spec, tree.store, base)
            if adoption.is_known:
                adoption.clear()
                adoption.put_known()
                adoption.finish_parts()
                self._take(adoption)
                return
            question = AskShard(base.block_hash, shard)
            self._node.requests.fetch_shard(question, partial(self._on_state, base))
            return

    def _on_state(self, base: Base, found: Answer | None, sender: str) -> bool:
        """Take a state that was asked for; False: ask somebody else."""
        if self._adoption is not None or base.shard in self._tree.followed:
            # It came another way meanwhile.
            return True
        if not isinstance(found, ShardState):
            return False
        self._node.guard(self._install, base, found, sender)
        return self._adoption is not None or not self._node.is_up

    def _install(self, base: Base, found: ShardState, sender: str) -> None:
        spec, tree = self._tree.spec, self._tree
        adoption = Adoption(spec, tree.store, base)
        adoption.clear()
        try:
            levels = spec.params.bucket_levels
            frontier = read_frontier(base, found.frontier, levels)
            places = [
                place
                for place in iterate_places(frontier)
                if place.digest != EMPTY_HASHES[place.levels - place.depth]
            ]
            if len(places) != len(found.parts):
                raise InvalidSnapshot("not as many parts as there are")
            for place, data in zip(places, found.parts, strict=True):
                adoption.put_part(place, data)
            adoption.finish_parts()
        except InvalidSnapshot as error:
            self._node.blame(sender, f"a shard's state: {error}")
            return
        self._take(adoption)

    def _take(self, adoption: Adoption) -> None:
        self._adoption = adoption
        self._tree.state.coming = adoption.shard

    # The chunks since then

    def _go_on(self, adoption: Adoption, wanted: frozenset[ShardId]) -> None:
        tree, requests = self._tree, self._node.requests
        if adoption.shard not in wanted & tree.running:
            self._give_up()
            return
        for _ in range(CHUNKS_A_STEP):
            try:
                chunk = tree.find_next_chunk(adoption)
            except PastChunk:
                self._give_up()
                return
            if chunk is None:
                self._finish(adoption)
                return
            body = tree.get_body(compute_chunk_hash(chunk.header))
            if body is None:
                requests.fetch_bodies([chunk.header])
                return
            adoption.execute(chunk, body)

    def _finish(self, adoption: Adoption) -> None:
        tree, requests = self._tree, self._node.requests
        if not has_sent_packets(tree, adoption.shard):
            requests.fetch_packets()
            return
        try:
            tree.adopt(adoption)
        except MissingBodies as missing:
            requests.fetch_bodies(missing.headers)
            return
        self._give_up()
        self._node.world.adopted += 1

    def _give_up(self) -> None:
        self._adoption = self._tree.state.coming = None

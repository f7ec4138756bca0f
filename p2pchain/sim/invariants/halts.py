"""
What must hold of wrong chunks that a committee vouched for, once a block holds one.

Below a committee's bound there are none; conspirators above it make some, and then the
shard has to halt.  A lie that no block ever held does no harm, and halts nothing by
itself: its certificate may be known to liars alone.
"""

from functools import partial
from typing import TYPE_CHECKING

from chain.execution.held import HeldBlock
from chain.ledger.halts import find_halted, read_halts
from p2pchain.sim.invariants.invariant import Invariant
from shards.chunk import compute_chunk_hash
from shards.layout import ROOT_SHARD

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

PATIENCE_EPOCHS = 2
"""For its proof to stand in a block: later, the rules take none."""


class LiesHalt(Invariant):
    """Judged on final blocks, by whoever executes them, and on the root's state."""

    name = "lies halt"
    theorem = (
        "A shard of which a final block holds a wrong chunk is halted within two "
        "epochs, and no block holds a chunk of a halted shard."
    )

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._lies: dict[int, int] = {}
        """The first block that holds a wrong chunk, by shard."""
        self._halted: frozenset[int] = frozenset()

    def on_block(self, node: "Node", parent: HeldBlock, held: HeldBlock) -> None:
        halts = read_halts(partial(parent.view.get, ROOT_SHARD))
        halted = find_halted(halts, parent.height)
        for certified in held.block.body.chunks:
            shard = certified.header.shard
            if shard in halted:
                self.fail(f"block {held.height} holds a chunk of halted shard {shard}")
            if compute_chunk_hash(certified.header) in self.world.judge.wrong:
                self._lies[shard] = min(held.height, self._lies.get(shard, held.height))
        self._halted |= halted
        patience = PATIENCE_EPOCHS * self.world.setup.epoch_blocks
        for shard, height in self._lies.items():
            if shard not in halted and held.height > height + patience:
                self._fail(shard, height)

    def on_end(self) -> None:
        for shard, height in self._lies.items():
            if shard not in self._halted:
                self._fail(shard, height)

    def _fail(self, shard: int, height: int) -> None:
        self.fail(f"shard {shard} goes on with the lie in block {height}")

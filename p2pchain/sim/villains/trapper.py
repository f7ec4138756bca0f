"""The trapper: a chunk for one victim only, and another one of the slot afterwards."""

from typing import TYPE_CHECKING

from p2pchain.sim.villains.desk_villain import DeskVillain, VillainDesk
from shards import effects as fx
from shards.messages import Message, ProducedChunk
from shards.slots import Slot, get_slot

if TYPE_CHECKING:
    from p2pchain.sim.chains.tree_chain import TreeChain
    from p2pchain.sim.node import Node

PATIENCE = 40
"""Times that the second chunk is sent, so that one finds a forgetful victim awake."""
EVERY_MS = 200


class TrapDesk(VillainDesk):
    """Builds twice: the first chunk is the bait, the second one the trap."""

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        super().__init__(node, chain)
        self._traps: dict[Slot, ProducedChunk] = {}

    def produce(self, effect: fx.Build) -> ProducedChunk | None:
        """Build a chunk, and another one for later."""
        produced, other = super().produce(effect), super().produce(effect)
        if produced is not None and other is not None:
            self._traps = {effect.slot: self.sign_chunk(other)}
        return produced

    def say(self, message: Message) -> None:
        """Show chunks to the victim only."""
        if not isinstance(message, ProducedChunk):
            super().say(message)
            return
        victim = self.node.world.nodes[min(self.node.world.setup.frail)]
        self.tell(victim, message)
        trap = self._traps.pop(get_slot(message.header), None)
        if trap is not None:
            for number in range(1, PATIENCE + 1):
                self.after(number * EVERY_MS, self._lure, victim, trap)

    def _lure(self, victim: "Node", trap: ProducedChunk) -> None:
        # The first chunk would give the second one away while both are remembered.
        if victim.life > 1:
            self.tell(victim, trap)


class Trapper(DeskVillain):
    """Waits for somebody to forget."""

    desk_kind = TrapDesk

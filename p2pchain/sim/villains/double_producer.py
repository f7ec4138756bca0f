"""The double producer: two chunks for one slot, each to some of the others."""

from typing import TYPE_CHECKING

from p2pchain.sim.villains.desk_villain import DeskVillain, VillainDesk
from shards import effects as fx
from shards.messages import Message, ProducedChunk
from shards.slots import Slot, get_slot

if TYPE_CHECKING:
    from p2pchain.sim.chains.tree_chain import TreeChain
    from p2pchain.sim.node import Node


class DoubleDesk(VillainDesk):
    """Builds twice, and signs both."""

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        super().__init__(node, chain)
        self._doubles: dict[Slot, ProducedChunk] = {}

    def produce(self, effect: fx.Build) -> ProducedChunk | None:
        """Build a chunk, and another one to keep."""
        produced = super().produce(effect)
        other = super().produce(effect)
        if produced is not None and other is not None:
            self._doubles = {effect.slot: self.sign_chunk(other)}
        return produced

    def say(self, message: Message) -> None:
        """Give one half the one chunk and one half the other."""
        if not isinstance(message, ProducedChunk):
            super().say(message)
            return
        other = self._doubles.get(get_slot(message.header))
        for node in self.others:
            chosen = [message]
            if other is not None:
                chosen = self.luck.choice(([message], [other], [message, other]))
            for each in chosen:
                self.tell(node, each)


class DoubleProducer(DeskVillain):
    """Fills every slot of its own twice."""

    desk_kind = DoubleDesk

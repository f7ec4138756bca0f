"""The conspirators: together above a committee's bound, they vouch for a lie."""

from typing import TYPE_CHECKING

from p2pchain.sim.villains.desk_villain import DeskVillain
from p2pchain.sim.villains.lying_producer import LyingDesk
from shards import effects as fx
from shards.events import Executed, Judgement
from shards.messages import Message, ProducedChunk

if TYPE_CHECKING:
    from p2pchain.sim.chains.tree_chain import TreeChain
    from p2pchain.sim.node import Node

TARGET = 1
"""The shard that they rob."""
BEGIN_MS = 6000
"""When they begin to."""


class ConspiratorDesk(LyingDesk):
    """Lies in one shard, and takes its fellows' word for good.

    Some show a lie to everybody, as if it were a chunk like others; some to their
    fellows only, and the world hears of the certificate.
    """

    lies = ("post root", "fees", "invented body")
    share = 1.0

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        super().__init__(node, chain)
        self._is_secret = self.node.world.seed % 2 == 1

    def produce(self, effect: fx.Build) -> ProducedChunk | None:
        """Build a lie once they have begun, and what is right in other shards."""
        is_time = self.node.world.now_ms >= BEGIN_MS
        self.share = 1.0 if is_time and effect.slot.shard == TARGET else 0.0
        return super().produce(effect)

    def execute(self, produced: ProducedChunk) -> None:
        """Judge as everybody does, unless a fellow made it."""
        if self._is_fellow(produced):
            self._events.append(Executed(produced.header, Judgement.GOOD, ""))
        else:
            super().execute(produced)

    def say(self, message: Message) -> None:
        """Say everything, some things to fellows only."""
        is_lie = isinstance(message, ProducedChunk) and bool(self._lie)
        if not (is_lie and self._is_secret):
            super().say(message)
            return
        for node in self.others:
            if not node.is_honest:
                self.tell(node, message)

    def _is_fellow(self, produced: ProducedChunk) -> bool:
        key = self.roles.validators.validators[produced.header.producer].public_key
        return key not in self.node.world.judge.honest_keys


class Conspirator(DeskVillain):
    """One of more than a third."""

    desk_kind = ConspiratorDesk

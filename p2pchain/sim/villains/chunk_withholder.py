"""Those who keep chunks or certificates back, for a while or for ever."""

from typing import TYPE_CHECKING

from p2pchain.sim.invariants.chunks import WINDOW
from p2pchain.sim.villains.desk_villain import DeskVillain, VillainDesk
from shards.certificate import CertifiedChunk
from shards.chunk import compute_chunk_hash
from shards.messages import Certified, Message, ProducedChunk

if TYPE_CHECKING:
    from p2pchain.sim.chains.tree_chain import TreeChain
    from p2pchain.sim.node import Node

HOLD_MS = (1_500, 14_000)
"""From a view and a half to more than K views."""
LATE_MS = (300, 4_000)


class WithholdingDesk(VillainDesk):
    """Certificates come when it is nearly too late, or too late."""

    hold_ms = HOLD_MS

    def say(self, message: Message) -> None:
        """Say everything, certificates later."""
        if isinstance(message, Certified):
            delay_ms = self.luck.randint(*self.hold_ms)
            self.after(delay_ms, super().say, message)
        else:
            super().say(message)


class CertificateWithholder(DeskVillain):
    """Collects endorsements and keeps what they make."""

    desk_kind = WithholdingDesk


class StaleDesk(WithholdingDesk):
    """Certificates come when they are over, and in blocks of its own if it can."""

    hold_ms = (9_500, 11_500)

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        super().__init__(node, chain)
        self._kept: dict[bytes, CertifiedChunk] = {}

    def offer(self, parent_hash: bytes, view: int) -> tuple[CertifiedChunk, ...]:
        """Offer what is older than K views, and nothing else."""
        return tuple(
            certified
            for certified in self._kept.values()
            if certified.header.created_view + WINDOW < view
        )

    def say(self, message: Message) -> None:
        """Remember every certificate."""
        if isinstance(message, Certified):
            chunk_hash = compute_chunk_hash(message.chunk.header)
            self._kept[chunk_hash] = message.chunk
        super().say(message)


class StaleKeeper(DeskVillain):
    """Keeps what it collects for more than K views."""

    desk_kind = StaleDesk


class SilentDesk(VillainDesk):
    """Says nothing at all."""

    def say(self, message: Message) -> None:
        """Say nothing."""


class SilentProducer(DeskVillain):
    """Its chunks never come."""

    desk_kind = SilentDesk


class LateDesk(VillainDesk):
    """Chunks come when the view is over or nearly so."""

    def say(self, message: Message) -> None:
        """Say everything, chunks later."""
        if isinstance(message, ProducedChunk):
            delay_ms = self.luck.randint(*LATE_MS)
            self.after(delay_ms, super().say, message)
        else:
            super().say(message)


class LateProducer(DeskVillain):
    """Its chunks come late."""

    desk_kind = LateDesk

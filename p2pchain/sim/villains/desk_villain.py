"""
What villains at chunks have in common: true to consensus, and a desk of another kind.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from p2pchain.sim.chains.tree_chain import TreeChain
from p2pchain.sim.machine.chunk_desk import ChunkDesk
from p2pchain.sim.villains.villain import Villain
from shards.certificate import compute_endorsement_bytes, compute_producer_bytes
from shards.chunk import compute_chunk_hash
from shards.messages import Endorsement, Message, ProducedChunk
from shards.slots import Slot, get_slot

if TYPE_CHECKING:
    from p2pchain.sim.node import Node


class VillainDesk(ChunkDesk):
    """A desk that may say anything, with its own key only."""

    @property
    def luck(self) -> random.Random:
        """The world's."""
        return self.node.world.luck

    @property
    def index(self) -> int | None:
        """Our seat in the epoch."""
        return self.desk.index

    @property
    def others(self) -> list["Node"]:
        """Everybody else."""
        nodes = self.node.world.nodes.values()
        return [node for node in nodes if node is not self.node]

    def tell(self, receiver: "Node", message: Message) -> None:
        """Send to one."""
        self.node.world.network.send_chunk(self.node, receiver, message)

    def after(self, delay_ms: int, action: Callable[..., None], *args: Any) -> None:
        """Do something later, in this life."""
        self.node.world.after(delay_ms, self.node, self.node.guard, action, *args)

    def sign_chunk(self, produced: ProducedChunk) -> ProducedChunk:
        """Return a chunk with our signature, whatever we signed before."""
        header = produced.header
        slot, chunk_hash = get_slot(header), compute_chunk_hash(header)
        message = compute_producer_bytes(self._chain_id, slot, chunk_hash)
        return msgspec.structs.replace(produced, signature=self._sign(message))

    def endorse(
        self, slot: Slot, chunk_hash: bytes, signer: int | None = None
    ) -> Endorsement:
        """Return an endorsement with our signature, in whosever name."""
        message = compute_endorsement_bytes(self._chain_id, slot, chunk_hash)
        own = 0 if self.index is None else self.index
        seat = own if signer is None else signer
        return Endorsement(slot, chunk_hash, seat, self._sign(message))

    @property
    def _chain_id(self) -> bytes:
        return self.node.world.chains.chain_id

    def _sign(self, message: bytes) -> bytes:
        assert self.node.signer is not None
        return self.node.signer.sign(message)


class DeskVillain(Villain):
    """A validator that cheats about chunks only."""

    desk_kind: type[VillainDesk] = VillainDesk

    def open_desk(self) -> ChunkDesk | None:
        """Return this life's desk."""
        if isinstance(self.chain, TreeChain):
            return self.desk_kind(self, self.chain)
        return None

"""The lying endorser: a word for every chunk, in its own name and in others'."""

from typing import TYPE_CHECKING

from p2pchain.sim.villains.desk_villain import DeskVillain, VillainDesk
from shards.certificate import CertifiedChunk, build_chunk_certificate
from shards.chunk import compute_chunk_hash
from shards.messages import Certified, Endorsement, Message, ProducedChunk
from shards.slots import get_slot

if TYPE_CHECKING:
    from p2pchain.sim.chains.tree_chain import TreeChain
    from p2pchain.sim.node import Node


class GullibleDesk(VillainDesk):
    """Executes nothing, endorses everything, forges what is missing."""

    is_forging = True

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        super().__init__(node, chain)
        self._seen: set[bytes] = set()

    def receive(self, message: Message, sender: str) -> None:
        """Endorse it before anybody has looked at it."""
        if isinstance(message, ProducedChunk):
            self._endorse_blindly(message)
        super().receive(message, sender)

    def say(self, message: Message) -> None:
        """Endorse what is our own, too; say nothing else of endorsements."""
        if isinstance(message, ProducedChunk):
            self._endorse_blindly(message)
        if not isinstance(message, Endorsement):
            super().say(message)

    def _endorse_blindly(self, produced: ProducedChunk) -> None:
        header = produced.header
        slot, chunk_hash = get_slot(header), compute_chunk_hash(header)
        if chunk_hash in self._seen or header.epoch != self.roles.epoch:
            return
        self._seen.add(chunk_hash)
        for node in self.others:
            self.tell(node, self.endorse(slot, chunk_hash))
            if self.is_forging and self.luck.random() < 0.2:
                seat = self.luck.randrange(len(self.roles.validators))
                self.tell(node, self.endorse(slot, chunk_hash, seat))
        if self.is_forging and self.luck.random() < 0.3 and self.index is not None:
            self._certify_alone(produced)

    def _certify_alone(self, produced: ProducedChunk) -> None:
        header = produced.header
        slot, chunk_hash = get_slot(header), compute_chunk_hash(header)
        assert self.index is not None
        word = self.endorse(slot, chunk_hash)
        certificate = build_chunk_certificate(
            {self.index: word.signature},
            self.roles.validators,
            self.node.world.keys.scheme,
        )
        for node in self.others:
            self.tell(node, Certified(CertifiedChunk(header, certificate)))


class LyingEndorser(DeskVillain):
    """Endorses whatever comes, and forges."""

    desk_kind = GullibleDesk


class CredulousDesk(GullibleDesk):
    """Signs everything with its own key and nothing else."""

    is_forging = False


class CredulousEndorser(DeskVillain):
    """Endorses whatever comes."""

    desk_kind = CredulousDesk

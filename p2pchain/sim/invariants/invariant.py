"""What an invariant is: something that hears of moments, and fails at the wrong one."""

from typing import TYPE_CHECKING, NoReturn

from chain.execution.held import HeldBlock
from consensus import effects as fx
from consensus.messages import Message, Proposal
from p2pchain.sim.errors import InvariantBroken
from shards import effects as chunk_fx
from shards.certificate import CertifiedChunk
from shards.evidence import ShardEvidence
from shards.inclusion import InclusionBase
from shards.messages import Message as ChunkMessage

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World


class Invariant:
    """One theorem; every method is a moment at which it could turn out false."""

    name = ""
    theorem = ""

    def __init__(self, world: "World") -> None:
        self.world = world

    def on_start(self, node: "Node") -> None:
        """A node has started or restarted."""

    def on_wipe(self, node: "Node") -> None:
        """A node lost its database on purpose."""

    def on_turn(self, node: "Node") -> None:
        """An honest node has handled an event and all that follows from it."""

    def on_message(self, node: "Node", message: Message) -> None:
        """An honest node says something."""

    def on_final(self, node: "Node", height: int) -> None:
        """A block became final for an honest node."""

    def on_refuse(self, node: "Node", refusal: fx.Refuse) -> None:
        """An honest node refused a message."""

    def on_conflict(self, node: "Node", conflict: fx.Conflict) -> None:
        """An honest node found two statements that exclude each other."""

    def on_evidence(self, node: "Node", guilty: frozenset[bytes]) -> None:
        """An honest node takes a piece of evidence against these keys for proven."""

    def on_invalid(self, node: "Node", proposal: Proposal, reason: str) -> None:
        """An honest node judged a block that its leader signed invalid."""

    def on_included(self, node: "Node", parent: HeldBlock, held: HeldBlock) -> None:
        """A block is about to become final, for the first time anywhere."""

    def on_block(self, node: "Node", parent: HeldBlock, held: HeldBlock) -> None:
        """A block is about to become final for an honest node."""

    def on_chunk_message(self, node: "Node", message: ChunkMessage) -> None:
        """An honest node is about to say something about a chunk."""

    def on_chunk_refuse(self, node: "Node", refusal: chunk_fx.Refuse) -> None:
        """An honest node refused something about a chunk."""

    def on_chunk_conflict(self, node: "Node", evidence: ShardEvidence) -> None:
        """An honest node's desk has evidence."""

    def on_certified(self, node: "Node", certified: CertifiedChunk) -> None:
        """An honest node holds a chunk for certified."""

    def on_pick(
        self, node: "Node", base: InclusionBase, picked: tuple[CertifiedChunk, ...]
    ) -> None:
        """An honest leader's desk says what a block may hold."""

    def on_end(self) -> None:
        """The run is over."""

    def fail(self, detail: str) -> NoReturn:
        """Raise `InvariantBroken`."""
        raise InvariantBroken(self.name, f"{detail} (at {self.world.now_ms} ms)")

"""
The judge sees everything that honest nodes do and tells the invariants.

Each invariant hears only of the moments that it overrides, so that watching costs
little.
"""

from typing import TYPE_CHECKING, Any

from chain.execution.held import HeldBlock
from consensus import effects as fx
from consensus.messages import Message, Proposal
from p2pchain.sim.invariants.blocks import (
    INVARIANTS,
    Agreement,
    HonestUnblamed,
    LightClientFollows,
)
from p2pchain.sim.invariants.chunks import ShardChains
from p2pchain.sim.invariants.invariant import Invariant
from shards import effects as chunk_fx
from shards.certificate import CertifiedChunk
from shards.chunk import compute_chunk_hash
from shards.errors import InvalidChunk
from shards.evidence import ShardEvidence
from shards.inclusion import InclusionBase
from shards.messages import Message as ChunkMessage
from shards.messages import ProducedChunk, validate_body

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

MOMENTS = (
    "on_start",
    "on_wipe",
    "on_turn",
    "on_message",
    "on_final",
    "on_refuse",
    "on_conflict",
    "on_evidence",
    "on_invalid",
    "on_included",
    "on_block",
    "on_chunk_message",
    "on_chunk_refuse",
    "on_chunk_conflict",
    "on_certified",
    "on_pick",
    "on_end",
)


class Judge:
    """Watches one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._refusals: dict[str, int] = {}
        self.conflicts = 0
        """Conflicts that honest nodes found."""
        self.blamed: dict[str, int] = {}
        """How often honest nodes found fault, by peer."""
        self.produced: dict[bytes, ProducedChunk] = {}
        """Every chunk that anybody ever made, by hash, with its own body."""
        self.wrong: set[bytes] = set()
        """Chunks that do not execute to their headers and are certified all the same:
        none, where villains are below the bound."""
        self.convicted: set[bytes] = set()
        """Keys that some desk could prove guilty."""
        self._included = 0
        self.honest_keys: frozenset[bytes] = frozenset()
        self.invariants = [kind(world) for kind in INVARIANTS]
        self._hearers: dict[str, list[Any]] = {
            moment: [
                getattr(invariant, moment)
                for invariant in self.invariants
                if getattr(type(invariant), moment) is not getattr(Invariant, moment)
            ]
            for moment in MOMENTS
        }
        self._agreement = self._get(Agreement)
        self._unblamed = self._get(HonestUnblamed)
        self.shards: ShardChains = self._get(ShardChains)
        """What became of the layer shards."""
        self._reading = self._get(LightClientFollows)

    @property
    def hashes(self) -> list[bytes]:
        """The longest final chain that an honest node has seen, from genesis on."""
        hashes: list[bytes] = self._agreement.hashes
        return hashes

    @property
    def height(self) -> int:
        """The height of the longest final chain that an honest node has seen."""
        return len(self._agreement.hashes) - 1

    def update_honest(self) -> None:
        """Learn whose keys are in honest hands."""
        nodes = self._world.nodes.values()
        keys = [(n.signer.public_key, n.is_honest) for n in nodes if n.signer]
        bad = {key for key, is_honest in keys if not is_honest}
        self.honest_keys = frozenset(key for key, _ in keys if key not in bad)

    def on_start(self, node: "Node") -> None:
        """A node has started."""
        self._world.note(node, b"start")
        self._tell("on_start", node)

    def on_wipe(self, node: "Node") -> None:
        """A node lost its database on purpose."""
        self._tell("on_wipe", node)

    def on_turn(self, node: "Node") -> None:
        """A node has handled an event and all that follows from it."""
        self._tell("on_turn", node)

    def on_message(self, node: "Node", message: Message) -> None:
        """A node is about to say something to everybody."""
        self._tell("on_message", node, message)

    def on_final(self, node: "Node", before: int) -> None:
        """Blocks above height `before` became final for a node."""
        for height in range(before + 1, node.chain.durable_height + 1):
            self._world.note(node, node.chain.get_hash(height))
            self._tell("on_final", node, height)

    def on_refuse(self, node: "Node", refusal: fx.Refuse) -> None:
        """A node refused a message."""
        self._refusals[node.name] = self.count_refusals(node) + 1
        if refusal.reason.is_fault and refusal.sender is not None:
            self._count_blame(refusal.sender.decode())
        self._tell("on_refuse", node, refusal)

    def count_refusals(self, node: "Node") -> int:
        """Return how many messages a node has refused so far."""
        return self._refusals.get(node.name, 0)

    def on_conflict(self, node: "Node", conflict: fx.Conflict) -> None:
        """A node found two statements that exclude each other."""
        self.conflicts += 1
        self._tell("on_conflict", node, conflict)

    def on_evidence(self, node: "Node", guilty: frozenset[bytes]) -> None:
        """A node takes a piece of evidence for proven."""
        self._tell("on_evidence", node, guilty)

    def on_invalid(self, node: "Node", proposal: Proposal, reason: str) -> None:
        """A node judged a leader's block invalid."""
        self._tell("on_invalid", node, proposal, reason)

    def on_blame(self, node: "Node", peer: str | None, reason: str) -> None:
        """A node's shell found fault with a peer."""
        if peer is not None:
            self._count_blame(peer)
        if node.is_honest:
            self._unblamed.check(node, peer, reason)

    def on_believed(self, height: int, block_hash: bytes) -> None:
        """A light client believes that a block is final."""
        self._reading.check(height, block_hash)

    def on_misled(self, detail: str) -> None:
        """A light client is told the truth and refuses it, or worse."""
        self._reading.fail(detail)

    def on_included(self, node: "Node", parent: HeldBlock, held: HeldBlock) -> None:
        """A block is about to become final for a node."""
        if node.is_honest and held.height == self._included + 1:
            self._included += 1
            self._tell("on_included", node, parent, held)
        self._tell("on_block", node, parent, held)

    def on_chunk_made(self, message: ChunkMessage) -> None:
        """Somebody, perhaps a villain, has something to say about a chunk."""
        if isinstance(message, ProducedChunk):
            chunk_hash = compute_chunk_hash(message.header)
            if chunk_hash not in self.produced and _is_whole(message):
                self.produced[chunk_hash] = message

    def on_chunk_message(self, node: "Node", message: ChunkMessage) -> None:
        """A node is about to say something about a chunk."""
        self._tell("on_chunk_message", node, message)

    def on_chunk_refuse(self, node: "Node", refusal: chunk_fx.Refuse) -> None:
        """A node refused what another one said about a chunk."""
        if refusal.reason.is_fault and refusal.sender is not None:
            self._count_blame(refusal.sender.decode())
        self._tell("on_chunk_refuse", node, refusal)

    def on_chunk_conflict(self, node: "Node", evidence: ShardEvidence) -> None:
        """A node's desk has evidence."""
        self._tell("on_chunk_conflict", node, evidence)

    def on_certified(self, node: "Node", certified: CertifiedChunk) -> None:
        """A node holds a chunk for certified."""
        self._tell("on_certified", node, certified)

    def on_pick(
        self, node: "Node", base: InclusionBase, picked: tuple[CertifiedChunk, ...]
    ) -> None:
        """A node that leads says what its block may hold."""
        self._tell("on_pick", node, base, picked)

    def on_end(self) -> None:
        """The run is over."""
        for hearer in self._hearers["on_end"]:
            hearer()

    def _tell(self, moment: str, node: "Node", *args: object) -> None:
        if node.is_honest:
            for hearer in self._hearers[moment]:
                hearer(node, *args)

    def _count_blame(self, peer: str) -> None:
        self.blamed[peer] = self.blamed.get(peer, 0) + 1

    def _get(self, kind: type) -> Any:
        return next(item for item in self.invariants if type(item) is kind)


def _is_whole(produced: ProducedChunk) -> bool:
    """Tell whether a body is the one that its header binds."""
    try:
        validate_body(produced)
    except InvalidChunk:
        return False
    return True

"""
What simulated nodes ask each other: blocks, certificates, ranges, and where they are.

The same questions as p2pchain.node.consensus.sync_messages, asked in the same way: one
peer after the other, each for as long as a timeout, and nothing is asked twice at a
time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from chain.errors import (
    BodyMismatch,
    InvalidBlock,
    MissingBodies,
    MissingParent,
    TooManyPending,
)
from chain.queries.foreign_packets import MissingPackets
from consensus.certificates import verify_certificate
from consensus.messages import Certificate, Proposal
from p2pchain.sim.machine.questions import (
    Answer,
    AskBlock,
    AskBody,
    AskCertificates,
    AskPackets,
    AskProof,
    AskRange,
    AskShard,
    AskStatus,
    Question,
    Range,
)
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.errors import InvalidPacket
from shards.packet import PacketProof

if TYPE_CHECKING:
    from p2pchain.sim.node import Node

MAX_GAP = 1
"""Blocks behind a peer that the normal course closes by itself."""
MAX_WAITING = 64
"""Blocks that wait for their parent."""
BODY_ATTEMPTS = 4
BODY_RETRY_MS = 1000
"""Between two rounds of asking for a body."""
STATUS_MS = 5000
"""How often nodes tell each other where they are."""


class Requests:
    """One life of one node's requests."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._running: set[object] = set()
        self._heights: dict[str, int] = {}
        self._waiting: dict[bytes, tuple[Proposal, bytes, str | None]] = {}
        self._bodiless: dict[bytes, tuple[Proposal, bytes, str | None]] = {}
        self._tried: set[str] = set()
        self._asked_at = 0
        self.is_catching_up = False

    @property
    def waiting_blocks(self) -> int:
        """Blocks that wait for their parent."""
        return len(self._waiting)

    # Blocks that wait

    def park(self, proposal: Proposal, block: bytes, sender: str | None) -> None:
        """Keep a block until its parent is held, and fetch that."""
        if len(self._waiting) >= MAX_WAITING:
            return
        self._waiting[proposal.block_hash] = proposal, block, sender
        if not self._node.is_far_behind:
            self.fetch_block(proposal.parent_hash)

    def take_children(
        self, block_hash: bytes
    ) -> list[tuple[Proposal, bytes, str | None]]:
        """Return the blocks that waited for this one; they wait no longer."""
        children = [
            entry
            for entry in self._waiting.values()
            if entry[0].parent_hash == block_hash
        ]
        for child in children:
            del self._waiting[child[0].block_hash]
        return children

    def forget_below(self, height: int) -> None:
        """Drop what no longer can be wanted."""
        self._waiting = {
            block_hash: entry
            for block_hash, entry in self._waiting.items()
            if entry[0].height > height
        }
        self._bodiless = {
            block_hash: entry
            for block_hash, entry in self._bodiless.items()
            if entry[0].height > height
        }

    def park_bodiless(
        self,
        proposal: Proposal,
        block: bytes,
        sender: str | None,
        headers: Sequence[ChunkHeader],
    ) -> None:
        """Keep a block until the bodies of its chunks are here, and fetch them."""
        if len(self._bodiless) < MAX_WAITING:
            self._bodiless[proposal.block_hash] = proposal, block, sender
            for header in headers:
                self._fetch_body(header, BODY_ATTEMPTS)

    def _fetch_body(self, header: ChunkHeader, attempts: int) -> None:
        """Ask everybody, and once more a little later: it may be on its way to them."""
        node, chunk_hash = self._node, compute_chunk_hash(header)

        def take(found: Answer | None, sender: str) -> bool:
            if not isinstance(found, bytes):
                return False
            if not node.chain.offer_body(header, found):
                node.blame(sender, "another body")
                return False
            self._running.discard(AskBody(chunk_hash))
            self._check_bodiless()
            return True

        def ask() -> None:
            if node.chain.get_body(chunk_hash) is not None:
                self._check_bodiless()
            elif self._bodiless or attempts == 1:
                self._start(AskBody(chunk_hash), take)
                if attempts > 1:
                    again = partial(self._fetch_body, header, attempts - 1)
                    node.world.after(BODY_RETRY_MS, node, again)

        ask()

    def fetch_bodies(self, headers: Sequence[ChunkHeader]) -> None:
        """Ask once for the bodies of chunks that a later block of ours may hold."""
        for header in headers:
            self._fetch_body(header, 1)

    def fetch_packets(self) -> None:
        """Ask for what waits in shards that we do not follow; anew with each block."""
        for missing in self._node.chain.find_missing_packets():
            chunk_hash = compute_chunk_hash(missing.header)
            question = AskPackets(chunk_hash, missing.dst, missing.first)
            self._start(question, partial(self._take_packets, missing))

    def _take_packets(
        self, missing: MissingPackets, found: Answer | None, sender: str
    ) -> bool:
        node, taken = self._node, 0

        def take(packets: tuple[PacketProof, ...]) -> None:
            nonlocal taken
            try:
                taken = node.chain.take_packets(missing, packets)
            except InvalidPacket as error:
                node.blame(sender, f"packets: {error}")

        if isinstance(found, tuple):
            given = tuple(each for each in found if isinstance(each, PacketProof))
            node.guard(take, given)
        return taken > 0 or not node.is_up

    def _check_bodiless(self) -> None:
        waiting, self._bodiless = self._bodiless, {}
        for entry in waiting.values():
            if self._node.is_up:
                self._node.check_again(*entry)

    # Single blocks and certificates

    def fetch_block(self, block_hash: bytes) -> None:
        """Get a block, or the ancestor that it waits for."""
        while block_hash in self._waiting:
            block_hash = self._waiting[block_hash][0].parent_hash
        if self._node.chain.has_block(block_hash):
            return

        def take(found: Answer | None, sender: str) -> bool:
            if self._node.chain.has_block(block_hash):
                return True
            if not isinstance(found, bytes):
                return False
            try:
                proposal = self._node.chain.read_proposal(found)
            except InvalidBlock:
                self._node.blame(sender, "bytes that are no block")
                return False
            if proposal.block_hash != block_hash:
                self._node.blame(sender, "another block")
                return False
            # Free the place: judging this block may need its parent fetched.
            self._running.discard(AskBlock(block_hash))
            self._node.take_block(proposal, found, sender)
            return True

        self._start(AskBlock(block_hash), take)

    def fetch_proof(self, proof_hash: bytes, on_held: Callable[[], None]) -> None:
        """Get a fraud proof and go on; who needs one that nobody has asks again."""

        def take(found: Answer | None, sender: str) -> bool:
            if not isinstance(found, bytes):
                return False
            if not self._node.chain.offer_proof(proof_hash, found):
                self._node.blame(sender, "another proof")
                return False
            self._node.guard(on_held)
            return True

        self._start(AskProof(proof_hash), take)

    def fetch_shard(
        self, question: AskShard, take: Callable[[Answer | None, str], bool]
    ) -> None:
        """Get the state of a shard, until `take` has it."""
        self._start(question, take)

    def fetch_certificates(self, epoch: int, view: int) -> None:
        """Get a view's certificates."""

        def take(found: Answer | None, sender: str) -> bool:
            node = self._node
            if isinstance(found, tuple):
                for certificate in found:
                    if isinstance(certificate, Certificate):
                        node.receive(certificate, sender)
            if node.epoch.epoch != epoch:
                return True
            return not node.book.is_unknown(view)

        self._start(AskCertificates(epoch, view), take)

    def _start(
        self, question: Question, take: Callable[[Answer | None, str], bool]
    ) -> None:
        """Ask one peer after the other until `take` has enough."""
        if question in self._running:
            return
        self._running.add(question)
        peers = self._node.draw_peers()

        def ask_next() -> None:
            if not peers:
                self._running.discard(question)
                return
            other = peers.pop()
            self._node.world.network.ask(self._node, other, question, on_answer)

        def on_answer(found: Answer | None, sender: str) -> None:
            if take(found, sender):
                self._running.discard(question)
            else:
                ask_next()

        ask_next()

    # Ranges

    def exchange_status(self) -> None:
        """Tell everybody where we are, and again in a while."""
        node = self._node
        question = AskStatus(node.chain.final_height)
        for other in node.draw_peers():
            node.world.network.ask(node, other, question, self._take_status)
        node.world.after(STATUS_MS, node, self.exchange_status)

    def _take_status(self, found: Answer | None, sender: str) -> None:
        if isinstance(found, int):
            self._heights[sender] = found
            self.note_height(sender, found)

    def note_height(self, peer: str, height: int) -> None:
        """Learn that a peer knows a final block of this height."""
        if height > self._heights.get(peer, -1):
            self._heights[peer] = height
        if height > self._node.chain.final_height + MAX_GAP:
            self.catch_up()

    def catch_up(self, peer: str | None = None) -> None:
        """Take ranges until no peer is known to be ahead."""
        if peer is not None:
            # It speaks of an epoch that we are not in: it is ahead by some block.
            ahead = self._node.chain.final_height + MAX_GAP + 1
            self._heights[peer] = max(self._heights.get(peer, -1), ahead)
        if not self.is_catching_up:
            self.is_catching_up = True
            self._tried = set()
            self._ask_for_range()

    def _ask_for_range(self) -> None:
        node = self._node
        ours = node.chain.final_height
        ahead = [
            (height, name)
            for name, height in self._heights.items()
            if height > ours + MAX_GAP and name not in self._tried
        ]
        if not ahead:
            self.is_catching_up = False
            return
        other = node.world.nodes[max(ahead)[1]]
        self._asked_at = ours
        node.world.network.ask(node, other, AskRange(ours + 1), self._take_range)

    def _take_range(self, found: Answer | None, sender: str) -> None:
        before = self._node.chain.final_height
        if isinstance(found, Range) and before == self._asked_at:
            # Else the chain has gone on by itself, perhaps into another epoch.
            try:
                self._add_range(found, sender)
            except (InvalidBlock, MissingParent) as error:
                self._node.blame(sender, f"a range: {error}")
        if self._node.is_up:
            if self._node.chain.final_height <= before:
                self._tried.add(sender)
            self._ask_for_range()

    def _add_range(self, found: Range, sender: str) -> None:
        """Check the links of a range, execute it, and let consensus decide.

        Raises:
            InvalidBlock: It does not lead from our last block to its certificate.
        """
        node, chain = self._node, self._node.chain
        target, epoch = found.certificate.proposal, chain.epoch
        scheme = node.world.keys.scheme
        if (
            target is None
            or target.epoch != epoch.epoch
            or not verify_certificate(
                found.certificate, epoch.validators, node.world.chains.chain_id, scheme
            )
        ):
            raise InvalidBlock("a finalization that does not verify")
        if len(found.bodies) != len(found.blocks):
            raise InvalidBlock("not the bodies of each block")
        height, parent_hash = chain.final_height, chain.final_hash
        proposals = []
        for block in found.blocks:
            proposal = chain.read_proposal(block)
            height += 1
            if (proposal.height, proposal.parent_hash) != (height, parent_hash):
                if proposal.height <= chain.final_height:
                    return
                raise InvalidBlock(f"block {height} does not continue the chain")
            parent_hash = proposal.block_hash
            proposals.append(proposal)
        if height != target.height or parent_hash != target.block_hash:
            if height < target.height:
                return
            raise InvalidBlock("the range does not lead to its certificate")
        given = zip(proposals, found.blocks, found.bodies, strict=True)
        for proposal, block, bodies in given:
            chain.take_bodies(block, bodies)
            try:
                chain.add_block(proposal, block, is_decided=True)
            except BodyMismatch:
                raise
            except MissingBodies as error:
                self.park_bodiless(proposal, block, sender, error.headers)
                return
            except TooManyPending:
                return
            node.on_block(proposal)
        node.receive(found.certificate, sender)

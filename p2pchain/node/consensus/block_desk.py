"""
Blocks between consensus and the application: built, judged, and fetched.

Consensus names a block and asks for it to be built, checked or fetched; what becomes
of that goes back to it as an event.  A block for which something is missing, its
parent, the bodies of its chunks or a fraud proof, waits at the fetcher and is judged
again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from chain.errors import (
    BodyMismatch,
    InvalidBlock,
    MissingBodies,
    MissingFraudProof,
    MissingParent,
    TooManyPending,
    UnjudgedFraud,
)
from chain.records.block import Attendance
from consensus import effects as fx
from consensus import events as ev
from consensus.messages import (
    Certificate,
    Proposal,
)
from consensus.participant import ParticipantConfig
from consensus.randao import compute_reveal_bytes
from network.network import Network
from p2pchain.node.consensus.application import Application
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.fetcher import Fetcher, WaitingBlock
from p2pchain.node.consensus.timers import Timers
from primitives.errors import P2PChainError

log = logging.getLogger(__name__)

PROPOSAL = "proposal"
"""Name of the timer that waits for the parent's time plus the interval."""


@dataclass(frozen=True, slots=True)
class BlockPorts:
    """What the desk asks of the driver."""

    enqueue: Callable[[ev.Event], None]
    """Have consensus hear of something, after what it is hearing of."""
    handle: Callable[[], None]
    """Let it hear of all that was enqueued."""
    blame: Callable[[bytes | None, str], None]
    """Charge a peer for what no correct one does."""
    is_far_behind: Callable[[], bool]
    """Whether ranges of final blocks are the way forward."""
    on_certificate: Callable[[Certificate, bytes], None]
    """Takes a certificate that was asked for, and who sent it."""


class BlockDesk:
    """All about single blocks for one node's consensus.

    Args:
        config: What the network agreed on; `signer` is our key or None.
        application: The chain.
        network: Where peers are asked.
        bodies: Gets the bodies of chunks, where blocks have any.
        timers: Of the driver.
        now_ms: Unix time in milliseconds.
        ports: The driver.
    """

    def __init__(
        self,
        config: ParticipantConfig,
        application: Application,
        network: Network,
        bodies: BodyExchange | None,
        timers: Timers,
        now_ms: Callable[[], int],
        ports: BlockPorts,
    ) -> None:
        self._config = config
        self._application = application
        self._timers = timers
        self._now_ms = now_ms
        self._ports = ports
        self.fetcher = Fetcher(
            network, application, bodies, self._on_fetched_block, ports.on_certificate
        )

    def schedule(self, effect: fx.ScheduleProposal) -> None:
        """Wait until the parent is old enough for a block on it."""
        due_ms = self._application.get_time_ms(effect.parent_hash)
        due_ms += self._config.params.interval_ms
        wait_s = max(0, due_ms - self._now_ms()) / 1000
        self._timers.set(PROPOSAL, wait_s, ev.ProposalDue(effect.view))

    def build(self, effect: fx.BuildBlock) -> None:
        """Have the application build a block for consensus to propose."""
        assert self._config.signer is not None
        earliest_ms = self._application.get_time_ms(effect.parent_hash)
        earliest_ms += self._config.params.interval_ms
        message = compute_reveal_bytes(self._config.chain_id, effect.epoch, effect.view)
        try:
            block_hash, block, height = self._application.build_block(
                epoch=effect.epoch,
                view=effect.view,
                parent_hash=effect.parent_hash,
                parent_view=effect.parent_view,
                proposer=effect.proposer,
                reveal=self._config.signer.sign(message),
                attendance=Attendance(effect.bitmap, effect.signature),
                time_ms=max(self._now_ms(), earliest_ms),
            )
        except P2PChainError:
            # The view passes without our block; the chain goes on.
            log.exception("no block for view %d", effect.view)
            return
        self._ports.enqueue(ev.BlockBuilt(effect.view, block_hash, block, height))

    def load(self, effect: fx.LoadBlock) -> None:
        """Answer with a held block, which is to be proposed again."""
        block = self._application.get_block_bytes(effect.block_hash)
        assert block is not None, "consensus asks for held blocks"
        height = self._application.read_proposal(block).height
        self._ports.enqueue(
            ev.BlockBuilt(effect.view, effect.block_hash, block, height)
        )

    def check(self, proposal: Proposal, block: bytes, sender: bytes | None) -> None:
        """Have the application judge a block; queue what consensus has to know."""
        try:
            if proposal.is_repeat:
                proposal = self._find_original(proposal, block)
            self._application.add_block(proposal, block)
        except MissingParent:
            waiting = WaitingBlock(proposal, block, sender)
            self.fetcher.park(waiting, is_fetching=not self._ports.is_far_behind())
        except MissingBodies as missing:
            waiting = WaitingBlock(proposal, block, sender)
            self.fetcher.park_bodiless(waiting, missing.headers)
        except MissingFraudProof as error:
            # As with a parent: it is judged once what it rests on is here.
            self._application.fetch_proof(
                error.proof_hash,
                sender,
                lambda: self._on_fetched_proof(proposal, block, sender),
            )
        except UnjudgedFraud as error:
            # Not for us to vote for; a quorum that can judge it makes it final.
            log.warning("no judgement of view %d: %s", proposal.view, error)
        except InvalidBlock as error:
            if isinstance(error, BodyMismatch) or not self._is_named(proposal, block):
                self._ports.blame(sender, str(error))
                self._ports.enqueue(ev.BlockMismatched(proposal))
            else:
                # The leader's, not the sender's; and where it is about time, perhaps
                # our clock's.  It costs the view.
                log.warning("invalid block in view %d: %s", proposal.view, error)
                self._ports.enqueue(ev.BlockRefused(proposal))
        except TooManyPending:
            log.exception("no judgement of block %s", proposal.block_hash.hex()[:8])
        else:
            self._ports.enqueue(ev.BlockAdded(proposal))
            self._check_children(proposal)

    def _find_original(self, repeat: Proposal, block: bytes) -> Proposal:
        """Return the proposal that a repetition repeats; the block's header tells.

        Raises:
            BodyMismatch: The bytes are another block.
        """
        try:
            original = self._application.read_proposal(block)
        except InvalidBlock as error:
            raise BodyMismatch(f"no block: {error}") from error
        if original.block_hash != repeat.block_hash:
            raise BodyMismatch("another block than the one that is repeated")
        return original

    def _check_children(self, proposal: Proposal) -> None:
        for child in self.fetcher.take_children(proposal.block_hash):
            self.check(child.proposal, child.block, child.sender)

    def _is_named(self, proposal: Proposal, block: bytes) -> bool:
        """Tell whether bytes that are not valid are at least those of the hash."""
        try:
            return self._application.read_proposal(block) == proposal
        except InvalidBlock:
            return False

    def on_synced_block(self, proposal: Proposal) -> None:
        """A block of a range is held."""
        self._ports.enqueue(ev.BlockAdded(proposal))
        self._check_children(proposal)
        self._ports.handle()

    def _on_fetched_block(
        self, proposal: Proposal, block: bytes, sender: bytes | None
    ) -> None:
        self.check(proposal, block, sender)
        self._ports.handle()

    def _on_fetched_proof(
        self, proposal: Proposal, block: bytes, sender: bytes | None
    ) -> None:
        if not self._application.has_block(proposal.block_hash):
            self.check(proposal, block, sender)
            self._ports.handle()

    def fetch(self, proposal: Proposal) -> None:
        """Get a certified block, unless it is here or ranges are the way forward."""
        if self._application.has_block(proposal.block_hash):
            self._ports.enqueue(ev.BlockAdded(proposal))
        elif not self._ports.is_far_behind():
            self.fetcher.fetch_block(proposal.block_hash)


class HeldBlocks:
    """The application's blocks as a container of hashes."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __contains__(self, block_hash: object) -> bool:
        return isinstance(block_hash, bytes) and self._application.has_block(block_hash)

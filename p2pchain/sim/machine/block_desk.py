"""
A simulated node's blocks, between its chain and consensus: built, judged, fetched.

What p2pchain.node.consensus.driver does with blocks, on virtual time.
"""

from functools import partial
from typing import TYPE_CHECKING

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
from consensus.messages import Proposal
from consensus.randao import compute_reveal_bytes

if TYPE_CHECKING:
    from p2pchain.sim.chains.chains import Chain
    from p2pchain.sim.node import Node


class BlockDesk:
    """One life of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    def schedule(self, effect: fx.ScheduleProposal) -> None:
        """Wait for the time after the parent's."""
        due_ms = self._node.chain.get_time_ms(effect.parent_hash)
        due_ms += self._node.world.params.interval_ms
        wait_ms = max(0, due_ms - self._node.get_clock_ms())
        self._node.set_timer("proposal", wait_ms, ev.ProposalDue(effect.view))

    def build(self, effect: fx.BuildBlock) -> None:
        """Build a block for consensus to propose."""
        assert self._node.signer is not None
        earliest_ms = self._node.chain.get_time_ms(effect.parent_hash)
        earliest_ms += self._node.world.params.interval_ms
        message = compute_reveal_bytes(
            self._node.world.chains.chain_id, effect.epoch, effect.view
        )
        block_hash, block, height = self._node.chain.build_block(
            epoch=effect.epoch,
            view=effect.view,
            parent_hash=effect.parent_hash,
            parent_view=effect.parent_view,
            proposer=effect.proposer,
            reveal=self._node.signer.sign(message),
            attendance=Attendance(effect.bitmap, effect.signature),
            time_ms=max(self._node.get_clock_ms(), earliest_ms),
        )
        self._node.enqueue(ev.BlockBuilt(effect.view, block_hash, block, height))

    def load(self, effect: fx.LoadBlock) -> None:
        """Answer with a held block, which is to be proposed again."""
        block = self._node.chain.get_block_bytes(effect.block_hash)
        assert block is not None, "a held block is gone"
        height = self._node.chain.read_proposal(block).height
        event = ev.BlockBuilt(effect.view, effect.block_hash, block, height)
        self._node.enqueue(event)

    def check(self, proposal: Proposal, block: bytes, sender: str | None) -> None:
        """Have the chain judge a block; queue what consensus has to know."""
        judged = proposal
        try:
            # Once more under an old name: what waits for its parent must name that.
            judged = self._get_judged(proposal, block)
            self._node.chain.add_block(judged, block)
        except MissingParent:
            self._node.requests.park(judged, block, sender)
        except MissingBodies as error:
            self._node.requests.park_bodiless(proposal, block, sender, error.headers)
        except MissingFraudProof as error:
            again = partial(self._node.check_and_handle, proposal, block, sender)
            self._node.requests.fetch_proof(error.proof_hash, again)
        except UnjudgedFraud:
            # Not for us to vote for; a quorum that can judge it makes it final.
            return
        except InvalidBlock as error:
            if isinstance(error, BodyMismatch) or not self._is_named(proposal, block):
                self._node.blame(sender, str(error))
                self._node.enqueue(ev.BlockMismatched(proposal))
            else:
                self._node.world.judge.on_invalid(self._node, proposal, str(error))
                self._node.enqueue(ev.BlockRefused(proposal))
        except TooManyPending:
            return
        else:
            self._node.enqueue(ev.BlockAdded(proposal))
            self.check_children(proposal)

    def _get_judged(self, proposal: Proposal, block: bytes) -> Proposal:
        """Return the proposal that the chain judges: a repetition's first one."""
        if not proposal.is_repeat:
            return proposal
        original = self._node.chain.read_proposal(block)
        if original.block_hash != proposal.block_hash:
            raise BodyMismatch("other bytes than those of the repeated block")
        return original

    def check_children(self, proposal: Proposal) -> None:
        """Judge the blocks that waited for this one."""
        for child in self._node.requests.take_children(proposal.block_hash):
            self.check(*child)

    def _is_named(self, proposal: Proposal, block: bytes) -> bool:
        try:
            return (
                self._node.chain.read_proposal(block).block_hash == proposal.block_hash
            )
        except InvalidBlock:
            return False

    def fetch(self, proposal: Proposal) -> None:
        """Get a certified block, unless it is here or ranges are the way forward."""
        if self._node.chain.has_block(proposal.block_hash):
            self._node.enqueue(ev.BlockAdded(proposal))
        elif not self._node.is_far_behind:
            self._node.requests.fetch_block(proposal.block_hash)


class HeldBlocks:
    """A chain's blocks as a container of hashes."""

    def __init__(self, chain: "Chain") -> None:
        self._chain = chain

    def __contains__(self, block_hash: object) -> bool:
        return isinstance(block_hash, bytes) and self._chain.has_block(block_hash)

"""The jumper: builds below the last certified block, as if its view were nullified."""

from chain.records.block import Attendance
from consensus.messages import Certificate, Message, Proposal, Propose
from consensus.randao import compute_reveal_bytes
from p2pchain.sim.villains.villain import Villain
from primitives.errors import P2PChainError


class Jumper(Villain):
    """What the justification of a proposal is there to forbid."""

    def say(self, message: Message) -> None:
        """Propose another block, on the parent's parent."""
        if isinstance(message, Propose):
            message = self._jump(message.notarize.proposal) or message
        super().say(message)

    def _jump(self, proposal: Proposal) -> Propose | None:
        """Return a proposal with a gap; None where there is nothing to jump over."""
        if proposal.is_repeat or self.index is None:
            return None
        skipped = self.book.notarizations.get(proposal.parent_view)
        if skipped is None or skipped.proposal is None or skipped.proposal.is_repeat:
            return None
        parent_view = skipped.proposal.parent_view
        parent = self.book.notarizations.get(parent_view)
        if parent is None and parent_view > 0:
            return None
        return self._propose(
            proposal, parent_view, skipped.proposal.parent_hash, parent
        )

    def _propose(
        self,
        proposal: Proposal,
        parent_view: int,
        parent_hash: bytes,
        parent: Certificate | None,
    ) -> Propose | None:
        assert self.index is not None
        place = proposal.epoch, proposal.view
        attendance = Attendance(b"", b"")
        if parent is not None:
            attendance = Attendance(parent.bitmap, parent.signature)
        try:
            _, block, _ = self.chain.build_block(
                epoch=proposal.epoch,
                view=proposal.view,
                parent_hash=parent_hash,
                parent_view=parent_view,
                proposer=self.index,
                reveal=self._sign(compute_reveal_bytes(self._chain_id, *place)),
                attendance=attendance,
                time_ms=self.get_clock_ms(),
            )
        except (P2PChainError, LookupError):
            # The chain is final beyond that parent.
            return None
        vote = self.notarize(self.chain.read_proposal(block))
        return Propose(block, vote, () if parent is None else (parent,))

"""
The leader's side of a view: find a parent, wait for its time, build, propose.

    prepare --ScheduleProposal--> on_due --Build-, LoadBlock--> on_built --> Propose

A block needs a parent whose notarization is known, whose bytes are held, and above
which every view is nullified.  On the epoch's boundary block nothing is built: until
it is final it is proposed again, as it is, and the wait for the parent's time leaves
its finalization time to come first.
"""

from consensus.book import Ancestry
from consensus.effects import (
    Broadcast,
    BuildBlock,
    FetchCertificates,
    LoadBlock,
    Persist,
    ScheduleProposal,
)
from consensus.events import BlockBuilt
from consensus.messages import Notarize, Proposal, Propose
from consensus.round import Round
from consensus.state import CoreState


class Proposer:
    """What a validator does in a view that it leads."""

    def __init__(self, state: CoreState) -> None:
        self._state = state

    def prepare(self) -> None:
        """Plan the proposal as soon as there is a parent for it."""
        state = self._state
        round = state.get_round(state.view)
        if not self._may_propose(round) or round.scheduled_parent is not None:
            return
        ancestry = state.book.find_parent(state.view)
        if ancestry.missing_view is not None:
            state.emit(FetchCertificates(state.config.epoch, ancestry.missing_view))
            # Asked once; a repetition (R7) asks again.
            round.scheduled_parent = b""
            return
        round.scheduled_parent = ancestry.parent_hash
        state.emit(ScheduleProposal(state.view, ancestry.parent_hash))

    def retry(self) -> None:
        """Something new is known: a leader that waits for a parent may look again."""
        round = self._state.rounds.get(self._state.view)
        if round is not None and round.scheduled_parent == b"":
            round.scheduled_parent = None

    def on_due(self, view: int) -> None:
        """The time of the planned proposal has come."""
        state = self._state
        round = state.get_round(state.view)
        if view != state.view or not self._may_propose(round):
            return
        ancestry = state.book.find_parent(view)
        if ancestry.missing_view is not None or round.scheduled_parent is None:
            return
        if ancestry.parent_hash != round.scheduled_parent:
            round.scheduled_parent = ancestry.parent_hash
            state.emit(ScheduleProposal(view, ancestry.parent_hash))
        elif ancestry.is_repeat:
            state.emit(LoadBlock(view, ancestry.parent_hash))
        else:
            self._build(view, ancestry)

    def _build(self, view: int, ancestry: Ancestry) -> None:
        state = self._state
        assert state.voter.index is not None
        bitmap, signature = b"", b""
        if ancestry.notarization is not None:
            bitmap, signature = state.tally.compute_attendance(
                state.rounds.get(ancestry.parent_view), ancestry.notarization
            )
        state.emit(
            BuildBlock(
                epoch=state.config.epoch,
                view=view,
                parent_view=ancestry.parent_view,
                parent_hash=ancestry.parent_hash,
                proposer=state.voter.index,
                bitmap=bitmap,
                signature=signature,
            )
        )

    def on_built(self, event: BlockBuilt) -> Notarize | None:
        """Propose a block; return our own vote for it, which went out with it."""
        state = self._state
        round = state.get_round(state.view)
        if event.view != state.view or not self._may_propose(round):
            return None
        ancestry = state.book.find_parent(event.view)
        if ancestry.missing_view is not None or round.scheduled_parent is None:
            return None
        if ancestry.parent_hash != round.scheduled_parent:
            return None
        proposal = Proposal(
            epoch=state.config.epoch,
            view=event.view,
            parent_view=ancestry.parent_view,
            parent_hash=ancestry.parent_hash,
            block_hash=event.block_hash,
            height=event.height,
        )
        if (event.height, proposal.is_repeat) != (ancestry.height, ancestry.is_repeat):
            # Built for a parent that was the right one a moment ago.
            return None
        state.book.add_held(proposal)
        round.candidate = proposal
        vote = state.voter.notarize(round, proposal)
        assert vote is not None
        state.emit(Persist(vote))
        state.emit(Broadcast(Propose(event.block, vote, ancestry.just)))
        return vote

    def _may_propose(self, round: Round) -> bool:
        voter = self._state.voter
        return voter.index == round.leader and voter.may_notarize(round)

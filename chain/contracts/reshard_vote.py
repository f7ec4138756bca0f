"""ReshardVote: approve a proposal to change the layout."""

from msgspec.structs import replace

from chain.contracts.reshard import validate_voter
from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.docket import get_docket, get_proposal, put_proposal
from chain.ledger.ledger import Ledger
from chain.records.outcome import Event
from chain.records.proposal import MAX_VOTES
from chain.records.resharding import ReshardVote

VOTE_WORK = 200


def compute_vote_work(payload: ReshardVote) -> int:
    """Return the work units of a vote."""
    return VOTE_WORK


def compute_vote_outflow(ledger: Ledger, sender: bytes, payload: ReshardVote) -> int:
    """Return the atoms that leave the sender's balance besides the fee."""
    return 0


def apply_vote(
    ledger: Ledger, context: Context, call: Call, payload: ReshardVote
) -> None:
    """Add the sender to those who approve; what it weighs, the boundary decides.

    Raises:
        RuleError: not_root_shard, unknown_stake, tombstoned, unknown_proposal,
            already_voted, too_many_votes.
    """
    validate_voter(ledger, context, call)
    if payload.number not in get_docket(ledger).open:
        raise RuleError("unknown_proposal", f"no proposal {payload.number} is open")
    proposal = get_proposal(ledger, payload.number)
    if call.sender in proposal.votes:
        raise RuleError("already_voted", "the sender has voted for it")
    if len(proposal.votes) >= MAX_VOTES:
        raise RuleError("too_many_votes", f"{len(proposal.votes)} have voted")
    put_proposal(ledger, replace(proposal, votes=(*proposal.votes, call.sender)))
    name = payload.number.to_bytes(4, "big")
    ledger.note(Event("reshard_vote", name, (call.sender,), 0))

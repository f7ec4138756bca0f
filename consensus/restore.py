"""
From the log and back: what a core takes up after a restart, and what must be kept.

A vote that the log does not hold was never sent, but its view's block may have been:
in the last view of the log, and below, nothing new is proposed or notarized.  At or
below the log's floor nothing new is signed at all, for votes may be missing there.
"""

from collections.abc import Container, Iterable

from consensus.messages import Certificate, Finalize, Notarize, Nullify, Vote, get_view
from consensus.pool import PooledVote
from consensus.records import Floor, WalRecord, get_place
from consensus.state import CoreState


def restore(
    state: CoreState, records: Iterable[WalRecord], held: Container[bytes]
) -> None:
    """Take up the promises of the log.

    Args:
        state: Fresh, at its tip.
        records: Our log; records of other epochs are passed over.
        held: Hashes of held blocks; asked only about those in the log.
    """
    silent_until = 0
    for record in records:
        epoch, view = get_place(record)
        if epoch != state.config.epoch:
            continue
        match record:
            case Floor():
                state.voter.floor = max(state.voter.floor, view)
            case Notarize() | Nullify() | Finalize():
                silent_until = max(silent_until, view)
                state.view = max(state.view, view)
                _restore_vote(state, record)
            case Certificate():
                silent_until = max(silent_until, view + 1)
                proposal = record.proposal
                if proposal is not None and proposal.block_hash in held:
                    state.book.add_held(proposal)
                if not state.book.is_stale(record):
                    state.book.restore(record)
    state.voter.silent_until = silent_until
    state.voter.forget_final(state.book.tip.view)
    state.view = max(state.view, state.book.get_passed_view() + 1)


def _restore_vote(state: CoreState, vote: Vote) -> None:
    _, view = get_view(vote)
    if view < state.book.tip.view or vote.signer != state.voter.index:
        return
    round = state.get_round(view)
    state.voter.restore(round, vote)
    round.get_pool(vote).add(PooledVote(vote, None, is_verified=True))


def collect_records(state: CoreState) -> list[WalRecord]:
    """Return the part of the log that still binds us: all a shorter log needs.

    Votes at or below the final tip may be left out, so the floor stands before all.
    """
    floor = max(state.book.tip.view, state.voter.floor)
    records: list[WalRecord] = [Floor(state.config.epoch, floor)]
    for certificates in (state.book.notarizations, state.book.nullifications):
        records += certificates.values()
    for round in state.rounds.values():
        votes = (round.notarize, round.nullify, round.finalize)
        records += [vote for vote in votes if vote is not None]
    return records

"""
Our own votes: what we may still sign in a view, given what we signed in it.

    notarize   once, unless nullified; never in a view that the log may have forgotten
    nullify    once, unless finalized; after notarize it is legal
    finalize   once, unless nullified

None of them at or below the floor, where the log is known to be incomplete.

Here is the whole of what a validator promises.  The rounds remember, the log outlives
us, and what is signed once is only ever sent again with the same bytes.
"""

from consensus.messages import (
    Finalize,
    Notarize,
    Nullify,
    Proposal,
    Vote,
    compute_finalize_bytes,
    compute_notarize_bytes,
    compute_nullify_bytes,
)
from consensus.round import Round
from consensus.scheme import Signer
from consensus.validators import ValidatorSet


class Voter:
    """Signs for one key in one epoch; signs nothing without a key or a seat.

    Args:
        chain_id: Part of what is signed.
        epoch: The epoch.
        validators: Its set.
        signer: Our key, or None.
    """

    def __init__(
        self,
        chain_id: bytes,
        epoch: int,
        validators: ValidatorSet,
        signer: Signer | None,
    ) -> None:
        self._chain_id = chain_id
        self._epoch = epoch
        self._signer = signer
        self.index: int | None = None
        """Our place in the set; None while we only listen."""
        if signer is not None:
            self.index = validators.find_index(signer.public_key)
        self.is_muted = False
        """Nothing new is signed at all: no log to vote by, or the epoch is over."""
        self.floor = 0
        """Nothing new is signed at or below this view."""
        self.silent_until = 0
        """The last view in the log: up to it nothing new is proposed or notarized."""
        self.last_finalize: Finalize | None = None
        """The latest Finalize vote, repeated while its block is not final."""

    @property
    def is_voting(self) -> bool:
        """Whether we have a seat and are not muted."""
        return self.index is not None and not self.is_muted

    def may_sign(self, view: int) -> bool:
        """Tell whether anything at all may be signed in a view."""
        return self.is_voting and view > self.floor

    def may_notarize(self, round: Round) -> bool:
        """Tell whether a Notarize vote of ours can still be signed in a view."""
        return (
            self.may_sign(round.view)
            and round.view > self.silent_until
            and round.notarize is None
            and round.nullify is None
        )

    def notarize(self, round: Round, proposal: Proposal) -> Notarize | None:
        """R1: return the vote for the first valid proposal, if we may."""
        if not self.may_notarize(round):
            return None
        message = compute_notarize_bytes(self._chain_id, proposal)
        round.notarize = Notarize(proposal, *self._sign(message))
        return round.notarize

    def finalize(self, round: Round, proposal: Proposal) -> Finalize | None:
        """R2: return the vote for a certified block, if we may."""
        if round.nullify is not None or round.is_equivocal:
            return None
        if round.finalize is not None or not self.may_sign(round.view):
            return None
        message = compute_finalize_bytes(self._chain_id, proposal)
        vote = Finalize(proposal, *self._sign(message))
        round.finalize = self.last_finalize = vote
        return vote

    def nullify(self, round: Round) -> Nullify | None:
        """R4: return the vote to leave a view, if we may."""
        if round.finalize is not None or round.nullify is not None:
            return None
        if not self.may_sign(round.view):
            return None
        message = compute_nullify_bytes(self._chain_id, self._epoch, round.view)
        round.nullify = Nullify(self._epoch, round.view, *self._sign(message))
        return round.nullify

    def restore(self, round: Round, vote: Vote) -> None:
        """Take up a promise from the log."""
        match vote:
            case Notarize():
                round.notarize = vote
            case Nullify():
                round.nullify = vote
            case Finalize():
                round.finalize = self.last_finalize = vote

    def forget_final(self, view: int) -> None:
        """Repeat no Finalize of a view up to which the chain is final."""
        last = self.last_finalize
        if last is not None and last.proposal.view <= view:
            self.last_finalize = None

    def _sign(self, message: bytes) -> tuple[int, bytes]:
        assert self.index is not None
        assert self._signer is not None
        return self.index, self._signer.sign(message)

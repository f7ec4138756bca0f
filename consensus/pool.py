"""
Votes of one kind in one view, verified as late as possible.

Theory of operation
-------------------
Votes of one subject add up, so a quorum is verified with one pairing, not with one
per vote.  Until then a vote is pooled unverified, and a forged one may sit in an
honest signer's place.  Two rules keep that harmless:

- A second, different vote of one signer ends the laziness for this signer: both are
  verified, forged ones go, and their senders are named.
- When the sum of a quorum does not verify, halving finds the forged votes.

A sum says that its signers signed, not who sent which signature: two signers' votes may
stand in each other's places.  That is as good for a certificate of both, and says
nothing of either alone.  So a sum leaves no mark on its votes: without one of them, or
with another one, it is verified again.

Of one signer at most two verified votes are kept: enough to prove the equivocation.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from consensus.messages import Nullify, Proposal, Vote, compute_vote_bytes
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from primitives.errors import RemoteError

MAX_PER_SIGNER = 2
"""Two votes that exclude each other are evidence; a third adds nothing."""

Subject = Proposal | None
"""What a vote is for; a view's nullification needs no name within the view."""


@dataclass(slots=True)
class PooledVote:
    """A vote with what is known about it."""

    vote: Vote
    sender: bytes | None
    """Who brought it; None for our own."""
    is_verified: bool
    """Alone, not just in a sum with others."""


def get_subject(vote: Vote) -> Subject:
    """Return what `vote` is for."""
    return None if isinstance(vote, Nullify) else vote.proposal


class VoteVerifier:
    """Checks votes of one epoch, singly or many of one subject at once."""

    def __init__(
        self, chain_id: bytes, validators: ValidatorSet, scheme: SignatureScheme
    ) -> None:
        self._chain_id = chain_id
        self._validators = validators
        self._scheme = scheme

    def verify(self, vote: Vote) -> bool:
        """Tell whether the signer, who is in the set, signed `vote`."""
        key = self._validators.validators[vote.signer].public_key
        message = compute_vote_bytes(self._chain_id, vote)
        return self._scheme.verify(key, message, vote.signature)

    def find_forged(self, votes: list[PooledVote]) -> list[PooledVote]:
        """Return which of `votes` of one subject must go for the sum to verify."""
        if not votes:
            return []
        is_true = self._verify_sum([pooled.vote for pooled in votes])
        if len(votes) == 1:
            votes[0].is_verified = is_true
        if is_true:
            return []
        if len(votes) == 1:
            return votes
        middle = len(votes) // 2
        return self.find_forged(votes[:middle]) + self.find_forged(votes[middle:])

    def _verify_sum(self, votes: list[Vote]) -> bool:
        message = compute_vote_bytes(self._chain_id, votes[0])
        keys = self._validators.get_public_keys(vote.signer for vote in votes)
        try:
            total = self._scheme.aggregate([vote.signature for vote in votes])
        except RemoteError:
            return False
        return self._scheme.fast_aggregate_verify(keys, message, total)


class VotePool:
    """At most two votes per signer, and the power behind each subject.

    Args:
        validators: Who votes.
    """

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators.validators
        self._votes: dict[Subject, dict[int, PooledVote]] = {}
        self._power: dict[Subject, int] = {}

    def __len__(self) -> int:
        return sum(len(votes) for votes in self._votes.values())

    def get_votes(self, subject: Subject) -> dict[int, PooledVote]:
        """Return the votes for `subject` by signer."""
        return self._votes.get(subject, {})

    def get_power(self, subject: Subject) -> int:
        """Return the power of all who voted for `subject`, forged votes included."""
        return self._power.get(subject, 0)

    def list_subjects(self) -> tuple[Subject, ...]:
        """Return what is voted for here."""
        return tuple(self._votes)

    def find(self, signer: int) -> Iterator[PooledVote]:
        """Yield the votes of one signer."""
        for votes in self._votes.values():
            if signer in votes:
                yield votes[signer]

    def add(self, pooled: PooledVote) -> None:
        """Keep a vote; in place of one of the same signer and subject."""
        subject, signer = get_subject(pooled.vote), pooled.vote.signer
        votes = self._votes.setdefault(subject, {})
        if signer not in votes:
            power = self._validators[signer].power
            self._power[subject] = self.get_power(subject) + power
        votes[signer] = pooled

    def remove(self, gone: Iterable[PooledVote]) -> None:
        """Forget votes that turned out to be forged."""
        for pooled in gone:
            subject, signer = get_subject(pooled.vote), pooled.vote.signer
            votes = self._votes[subject]
            del votes[signer]
            self._power[subject] -= self._validators[signer].power
            if not votes:
                del self._votes[subject], self._power[subject]

    def settle_rivals(
        self, signer: int, verify: Callable[[Vote], bool]
    ) -> list[PooledVote]:
        """Verify the pooled votes of `signer`; return the forged ones, now removed."""
        rivals = [pooled for pooled in self.find(signer) if not pooled.is_verified]
        for pooled in rivals:
            pooled.is_verified = verify(pooled.vote)
        forged = [pooled for pooled in rivals if not pooled.is_verified]
        self.remove(forged)
        return forged

"""
Votes of one kind in one view, verified as late as possible.

consensus/sums.py says when, and why that is harmless.
Of one signer at most two verified votes are kept: enough to prove the equivocation.
"""

from collections.abc import Callable, Iterable, Iterator

from consensus.messages import Nullify, Proposal, Vote, compute_vote_bytes
from consensus.scheme import SignatureScheme
from consensus.sums import Pooled, SumVerifier
from consensus.validators import ValidatorSet

MAX_PER_SIGNER = 2
"""Two votes that exclude each other are evidence; a third adds nothing."""

PooledVote = Pooled[Vote]

Subject = Proposal | None
"""What a vote is for; a view's nullification needs no name within the view."""


def get_subject(vote: Vote) -> Subject:
    """Return what `vote` is for."""
    return None if isinstance(vote, Nullify) else vote.proposal


class VoteVerifier(SumVerifier[Vote]):
    """Checks votes of one epoch, singly or many of one subject at once."""

    def __init__(
        self, chain_id: bytes, validators: ValidatorSet, scheme: SignatureScheme
    ) -> None:
        super().__init__(validators, scheme)
        self._chain_id = chain_id

    def build_message(self, signed: Vote) -> bytes:
        """Return what voters for its subject sign."""
        return compute_vote_bytes(self._chain_id, signed)


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
        subject, signer = get_subject(pooled.signed), pooled.signed.signer
        votes = self._votes.setdefault(subject, {})
        if signer not in votes:
            power = self._validators[signer].power
            self._power[subject] = self.get_power(subject) + power
        votes[signer] = pooled

    def remove(self, gone: Iterable[PooledVote]) -> None:
        """Forget votes that turned out to be forged."""
        for pooled in gone:
            subject, signer = get_subject(pooled.signed), pooled.signed.signer
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
            pooled.is_verified = verify(pooled.signed)
        forged = [pooled for pooled in rivals if not pooled.is_verified]
        self.remove(forged)
        return forged

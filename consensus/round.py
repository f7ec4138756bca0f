"""What the core remembers of one view."""

from dataclasses import dataclass, field

from consensus.messages import Finalize, Notarize, Nullify, Proposal, Vote
from consensus.pool import VotePool
from consensus.validators import ValidatorSet


@dataclass(slots=True)
class Round:
    """One view: our own votes in it, everybody's votes, and what its leader did."""

    view: int
    leader: int
    """Index of the validator that may propose."""
    validators: ValidatorSet = field(repr=False)
    """Who votes."""
    notarize: Notarize | None = None
    """Our own vote; signed once, sent again with the same bytes."""
    nullify: Nullify | None = None
    finalize: Finalize | None = None
    candidate: Proposal | None = None
    """The first proposal of the leader with a valid signature and justification."""
    is_equivocal: bool = False
    """Whether the leader signed two proposals; then we do not finalize."""
    scheduled_parent: bytes | None = None
    """The parent on which we plan to propose, if we lead."""
    notarize_pool: VotePool = field(init=False)
    nullify_pool: VotePool = field(init=False)
    finalize_pool: VotePool = field(init=False)

    def __post_init__(self) -> None:
        self.forget_votes()

    def get_pool(self, vote: Vote) -> VotePool:
        """Return the pool that takes votes of this kind."""
        match vote:
            case Notarize():
                return self.notarize_pool
            case Nullify():
                return self.nullify_pool
            case Finalize():
                return self.finalize_pool

    def get_opposite_pool(self, vote: Vote) -> VotePool | None:
        """Return the pool whose votes exclude those of this kind, if there is one."""
        match vote:
            case Notarize():
                return None
            case Nullify():
                return self.finalize_pool
            case Finalize():
                return self.nullify_pool

    def forget_votes(self) -> None:
        """Drop everybody's votes and keep our own."""
        self.notarize_pool = VotePool(self.validators)
        self.nullify_pool = VotePool(self.validators)
        self.finalize_pool = VotePool(self.validators)

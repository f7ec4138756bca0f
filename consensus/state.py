"""
What the parts of a core share: who votes, what is known, where we are, what to do.
"""

from dataclasses import dataclass

from consensus.activity import Activity
from consensus.book import CertificateBook, Tip
from consensus.effects import Effect, Reason, Refuse
from consensus.leader import compute_leader
from consensus.params import ConsensusParams
from consensus.round import Round
from consensus.scheme import SignatureScheme, Signer
from consensus.tally import Tally
from consensus.validators import ValidatorSet
from consensus.voter import Voter


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreConfig:
    """What never changes while a core runs."""

    chain_id: bytes
    epoch: int
    seed: bytes
    """The epoch's seed, from which leaders are drawn."""
    validators: ValidatorSet
    last_height: int
    """Height of the epoch's boundary block."""
    params: ConsensusParams
    scheme: SignatureScheme
    signer: Signer | None
    """Our key; None for a node that only listens."""


class CoreState:
    """One core's memory; the rules that change it are in core, proposer and restore."""

    def __init__(self, config: CoreConfig, tip: Tip) -> None:
        self.config = config
        self.view = tip.view + 1
        """The view we are in."""
        self.book = CertificateBook(tip, config.last_height)
        self.voter = Voter(
            config.chain_id, config.epoch, config.validators, config.signer
        )
        self.rounds: dict[int, Round] = {}
        self.activity = Activity(config.validators)
        self.effects: list[Effect] = []
        self.tally = Tally(
            config.chain_id,
            config.epoch,
            config.validators,
            config.scheme,
            emit=lambda effect: self.effects.append(effect),
        )

    @property
    def is_over(self) -> bool:
        """Whether the boundary block is final, and with it the epoch."""
        return self.book.tip.height >= self.config.last_height

    def get_round(self, view: int) -> Round:
        """Return what we remember of a view; empty at first."""
        round = self.rounds.get(view)
        if round is None:
            validators = self.config.validators
            leader = compute_leader(self.config.seed, view, validators)
            round = self.rounds[view] = Round(view, leader, validators)
        return round

    def emit(self, effect: Effect) -> None:
        """Want something done, after what was wanted before."""
        self.effects.append(effect)

    def refuse(self, sender: bytes | None, reason: Reason, detail: str = "") -> None:
        """Say why a message is not taken."""
        self.effects.append(Refuse(sender, reason, detail))

    def take_effects(self) -> list[Effect]:
        """Return what is to be done, once."""
        effects, self.effects = self.effects, []
        return effects

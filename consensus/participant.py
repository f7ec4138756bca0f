"""
One key's life in consensus, from epoch to epoch.

Theory of operation
-------------------
A core lives in one epoch.  The participant holds the core of the present one and puts
the next in its place when the application has made the boundary block final, durably:

    core of e --Decide(boundary)--> over, silent --EpochBegun(e + 1)--> core of e + 1

Between the two nothing is said.  Views of two epochs never mix: what a peer says of an
epoch that is over gets the boundary's finalization for an answer, and what it says of
a later one is a reason to catch up (and is kept, where it is of the very next one).

What a key may sign follows from its log, which may reach further than the chain:

- The chain's database may have been lost and be replayed.  While the log reaches a
  later epoch than the present one, nothing is signed; in the last epoch of the log a
  core takes its records up.
- The log itself may have been lost, and with it the memory of what was signed.  Then
  nothing is signed until the first block of an epoch is final that begins after the one
  our chain was in when we started, and whose time is well after our start.  What we may
  have signed before is of earlier views then, for nobody votes for blocks of the future
  or beyond the end of its chain; a new log begins with a floor at the present view.
  Either condition alone would do, the first one if only the log was lost, the second
  one if our clock was right.

Like the core, this is a function from events to effects; the node and the simulator
run the same one.

Spec: docs/protocol/04-consensus.md
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import Enum

from consensus.book import CertificateBook, Tip
from consensus.core import Core
from consensus.early import EarlyMessages
from consensus.effects import (
    BeginLog,
    CatchUp,
    Effect,
    Reason,
    Refuse,
    TellEpochEnd,
)
from consensus.epoch import EpochConfig
from consensus.events import EpochBegun, Event, FirstBlockFinal, Received
from consensus.messages import Certificate, Kind, Message, get_view
from consensus.params import ConsensusParams
from consensus.records import Floor, WalRecord, get_place
from consensus.scheme import SignatureScheme, Signer
from consensus.state import CoreConfig

LOST_LOG_WAIT_MS = 10_000
"""Nobody votes for a block more than a second ahead of its clock; the rest is for
clocks that differ and messages that were on their way."""


class Mute(Enum):
    """Why a validator does not sign."""

    LOST_LOG = "its log is lost: it waits for an epoch that begins after its start"
    REPLAY = "its log reaches further than its chain: it catches up first"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantConfig:
    """What never changes while a participant lives."""

    chain_id: bytes
    params: ConsensusParams
    scheme: SignatureScheme
    signer: Signer | None
    """Our key; None for a node that only listens."""


class Participant:
    """One key, or a listener; `start` once, then `handle` event after event.

    Args:
        config: Who we are and what we agreed on.
        epoch: That of the child of the last final block.
        tip: The last final block.
        records: Our log.
        held: The hashes of blocks that are held (asked only about those in the log).
        lost_at_ms: Unix time of our start if the log was lost; None if it is whole.
    """

    def __init__(
        self,
        config: ParticipantConfig,
        epoch: EpochConfig,
        tip: Tip,
        records: Iterable[WalRecord] = (),
        held: Container[bytes] = (),
        *,
        lost_at_ms: int | None = None,
    ) -> None:
        self._config = config
        self._records = tuple(records)
        self._held = held
        self._lost_at_ms = lost_at_ms if config.signer is not None else None
        self._first_epoch = epoch.epoch
        places = [get_place(record) for record in self._records]
        self._log_epoch = max((place[0] for place in places), default=0)
        self._early = EarlyMessages()
        self._epoch = epoch
        self._root_hash = tip.block_hash if tip.view == 0 else b""
        self._core = self._build_core(tip)

    @property
    def epoch(self) -> EpochConfig:
        """The epoch we are in."""
        return self._epoch

    @property
    def view(self) -> int:
        """The view we are in."""
        return self._core.view

    @property
    def index(self) -> int | None:
        """Our place in the epoch's validator set; None while we only listen."""
        return self._core.index

    @property
    def mute(self) -> Mute | None:
        """Why we sign nothing although we have a key; None if nothing hinders us."""
        if self._lost_at_ms is not None:
            return Mute.LOST_LOG
        if self._config.signer is not None and self._epoch.epoch < self._log_epoch:
            return Mute.REPLAY
        return None

    @property
    def is_voting(self) -> bool:
        """Whether we have a place in the set and may sign."""
        return self.index is not None and self.mute is None

    @property
    def is_over(self) -> bool:
        """Whether we wait for `EpochBegun`."""
        return self._core.is_over

    @property
    def core(self) -> Core:
        """The present epoch's core, to read from."""
        return self._core

    @property
    def book(self) -> CertificateBook:
        """The present epoch's certificates and held blocks, to read from."""
        return self._core.book

    def start(self) -> list[Effect]:
        """Enter the view that the log leads to."""
        return self._core.start()

    def handle(self, event: Event) -> list[Effect]:
        """Apply one event and return what it makes necessary."""
        match event:
            case EpochBegun():
                return self._begin_epoch(event)
            case FirstBlockFinal():
                return self._on_first_block(event)
            case Received(sender=bytes() as sender):
                epoch, _ = get_view(event.message)
                if epoch < self._epoch.epoch:
                    return self._answer_straggler(event.message, sender, epoch)
                if epoch > self._epoch.epoch:
                    return self._follow(event.message, sender, epoch)
        return self._core.handle(event)

    def get_retained_records(self) -> list[WalRecord]:
        """Return the part of the log that still binds us: all a shorter log needs.

        The floor in it stands for every epoch before, so call this only when those are
        final durably: as they are once `EpochBegun` came.
        """
        if self._epoch.epoch < self._log_epoch:
            return list(self._records)
        return self._core.get_retained_records()

    # From epoch to epoch

    def _build_core(self, tip: Tip) -> Core:
        epoch = self._epoch
        config = CoreConfig(
            chain_id=self._config.chain_id,
            epoch=epoch.epoch,
            seed=epoch.seed,
            validators=epoch.validators,
            last_height=epoch.last_height,
            params=self._config.params,
            scheme=self._config.scheme,
            signer=self._config.signer,
        )
        is_muted = self.mute is not None
        return Core(config, tip, self._records, self._held, is_muted=is_muted)

    def _begin_epoch(self, event: EpochBegun) -> list[Effect]:
        if event.epoch.epoch <= self._epoch.epoch:
            return []
        is_next = event.epoch.epoch == self._epoch.epoch + 1
        early = self._early.take() if is_next else []
        self._epoch = event.epoch
        self._root_hash = event.root.block_hash
        if event.epoch.epoch > self._log_epoch:
            self._records = ()
        self._core = self._build_core(event.root)
        effects = self._core.start()
        for received in early:
            effects += self._core.handle(received)
        return effects

    def _on_first_block(self, event: FirstBlockFinal) -> list[Effect]:
        """A lost log: begin a new one once everything from before is out of date."""
        if self._lost_at_ms is None or event.epoch != self._epoch.epoch:
            return []
        if event.time_ms <= self._lost_at_ms + LOST_LOG_WAIT_MS or self.is_over:
            return []
        if event.epoch <= self._first_epoch:
            return []
        self._lost_at_ms = None
        view = self._core.begin_signing()
        return [BeginLog(Floor(self._epoch.epoch, view))]

    # Peers in other epochs

    def _answer_straggler(
        self, message: Message, sender: bytes, epoch: int
    ) -> list[Effect]:
        """A peer speaks of an epoch that is over: it may not know that."""
        effects: list[Effect] = [Refuse(sender, Reason.OTHER_EPOCH)]
        if not self._is_end(message):
            effects.append(TellEpochEnd(sender, epoch))
        return effects

    def _is_end(self, message: Message) -> bool:
        """Tell whether a message is the very answer that stragglers get."""
        return (
            isinstance(message, Certificate)
            and message.kind == Kind.FINALIZATION
            and message.proposal is not None
            and message.proposal.block_hash == self._root_hash
        )

    def _follow(self, message: Message, sender: bytes, epoch: int) -> list[Effect]:
        """A peer speaks of an epoch that we are not in yet."""
        effects: list[Effect] = [Refuse(sender, Reason.OTHER_EPOCH)]
        if epoch == self._epoch.epoch + 1:
            self._early.add(message, sender)
        if not self.is_over:
            effects.append(CatchUp(sender, epoch))
        return effects

"""
What happens to the core: everything it learns, it learns through one of these.
"""

from dataclasses import dataclass
from enum import Enum

from consensus.book import Tip
from consensus.epoch import EpochConfig
from consensus.messages import Message, Proposal


class Timer(Enum):
    """The core's timers; each runs at most once at a time."""

    LEADER = "leader"
    """t_L: the proposal should have come."""
    ADVANCE = "advance"
    """t_A: the certificate should have come."""
    REBROADCAST = "rebroadcast"
    """The view is stuck: say again what we said."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message came."""

    message: Message
    sender: bytes | None
    """Who answers for it; an opaque name that comes back in `Refuse`."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that the core set has run out."""

    timer: Timer
    view: int


@dataclass(frozen=True, slots=True)
class ProposalDue:
    """The time has come that `ScheduleProposal` asked to wait for."""

    view: int


@dataclass(frozen=True, slots=True)
class BlockBuilt:
    """The block that `BuildBlock` or `LoadBlock` asked for; it is held from now on."""

    view: int
    block_hash: bytes
    block: bytes
    height: int


@dataclass(frozen=True, slots=True)
class BlockAdded:
    """A block is held: its bytes are here, it is valid, so are its ancestors."""

    proposal: Proposal


@dataclass(frozen=True, slots=True)
class BlockDropped:
    """A block that no certificate of ours named gave way to others: fetch it again."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class BlockRefused:
    """A block that `CheckBlock` named is invalid, and its leader is to blame."""

    proposal: Proposal


@dataclass(frozen=True, slots=True)
class BlockMismatched:
    """The bytes that `CheckBlock` gave are not the block that the hash names."""

    proposal: Proposal


@dataclass(frozen=True, slots=True)
class EpochBegun:
    """The boundary of the epoch before is final, durably; this epoch goes on from it.

    For the participant only; a core lives in one epoch.
    """

    epoch: EpochConfig
    root: Tip


@dataclass(frozen=True, slots=True)
class FirstBlockFinal:
    """The first block of the current epoch is final.

    For the participant only: who lost its log may begin a new one once the epoch is
    young enough.
    """

    epoch: int
    time_ms: int
    """The block's time, Unix milliseconds."""


Event = (
    Received
    | TimerFired
    | ProposalDue
    | BlockBuilt
    | BlockAdded
    | BlockDropped
    | BlockRefused
    | BlockMismatched
    | EpochBegun
    | FirstBlockFinal
)

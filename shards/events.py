"""
What happens to the desk: everything it learns, it learns through one of these.
"""

from dataclasses import dataclass
from enum import Enum

from primitives.types import Hash32, ShardId
from shards.chunk import ChunkHeader
from shards.inclusion import InclusionBase
from shards.messages import Message, ProducedChunk
from shards.roles import Roles
from shards.slots import Slot


class Timer(Enum):
    """The desk's timers; each runs at most once at a time per slot."""

    TURN = "turn"
    """The next producer in rank may produce."""
    REPEAT = "repeat"
    """Our chunk is not certified yet: send it again."""


class Judgement(Enum):
    """What re-executing a chunk came to."""

    GOOD = "it gives what the header says"
    BAD = "it does not"
    SPOILT = "the witness is not the chunk's: another copy of it may be good"
    UNKNOWN = "something of the chain is missing here that it needs"


@dataclass(frozen=True, slots=True)
class EpochBegun:
    """The boundary of the epoch before is final, durably."""

    roles: Roles


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewEntered:
    """Consensus entered a view, or found a better parent while in it."""

    base: InclusionBase
    """What a block of this view on the best parent that we hold is judged by."""
    parent: Hash32
    """That parent: the anchor of what we produce."""
    leaders: tuple[int, ...]
    """Indices of the leaders of this view and the next."""
    producible: frozenset[ShardId]
    """Shards whose state at the parent we hold."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that the desk set has run out."""

    timer: Timer
    slot: Slot


@dataclass(frozen=True, slots=True)
class ChunkBuilt:
    """The chunk that `Build` asked for; its signature is empty so far."""

    produced: ProducedChunk


@dataclass(frozen=True, slots=True)
class NothingBuilt:
    """The shard has nothing to do: no chunk for that slot."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Executed:
    """What `Execute` asked for is known."""

    header: ChunkHeader
    judgement: Judgement
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """A message came."""

    message: Message
    sender: bytes | None
    """Who answers for it; an opaque name that comes back in `Refuse`."""


Event = (
    EpochBegun
    | ViewEntered
    | TimerFired
    | ChunkBuilt
    | NothingBuilt
    | Executed
    | Received
)

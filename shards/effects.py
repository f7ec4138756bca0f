"""
What the desk wants done: values, in the order in which they must take effect.

A `SaveChunk` or `Persist` must be on disk before a later `Send` or `Broadcast` leaves.
"""

from dataclasses import dataclass
from enum import Enum

from primitives.types import Hash32
from shards.certificate import CertifiedChunk
from shards.events import Timer
from shards.evidence import ShardEvidence
from shards.messages import Endorsement, Message, ProducedChunk, ProducerSignature
from shards.slots import Slot

SignedRecord = Endorsement | ProducerSignature
"""What we signed, as the log keeps it."""


class Reason(Enum):
    """Why a message was not taken."""

    # Nobody's fault: networks deliver late, early and twice.
    STALE = "of a slot that is over"
    EARLY = "of a view too far ahead"
    DUPLICATE = "already known"
    OTHER_EPOCH = "of another epoch"
    UNKNOWN_CHUNK = "about a chunk that is not known here"
    SURPLUS = "more than is kept"
    BAD_CHUNK = "re-executing the chunk gives something else"
    BAD_WITNESS = "the witness is not what the chunk touches under its pre_root"
    # The sender's fault: a correct node checks before it sends.
    UNKNOWN_SHARD = "of a shard without certified chunks"
    NOT_PRODUCER = "by somebody who may not produce in the slot"
    NOT_MEMBER = "by somebody who is not in the committee"
    BAD_SIGNATURE = "the signature does not verify"
    BAD_CERTIFICATE = "the certificate does not verify"
    BAD_BODY = "transactions or packets are not those of the header"

    @property
    def is_fault(self) -> bool:
        """Whether a correct sender never gives cause for it."""
        return self in _FAULTS


_FAULTS = frozenset(
    {
        Reason.UNKNOWN_SHARD,
        Reason.NOT_PRODUCER,
        Reason.NOT_MEMBER,
        Reason.BAD_SIGNATURE,
        Reason.BAD_CERTIFICATE,
        Reason.BAD_BODY,
    }
)


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Start a timer, in place of the one of this name and slot that may be running."""

    timer: Timer
    slot: Slot
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Build:
    """Build a chunk on the shard's tip and give `ChunkBuilt` or `NothingBuilt`."""

    slot: Slot
    prev_chunk: Hash32
    anchor: Hash32
    producer: int
    """Our own index."""


@dataclass(frozen=True, slots=True)
class Execute:
    """Re-execute a chunk from its witness and give `Executed`."""

    produced: ProducedChunk


@dataclass(frozen=True, slots=True)
class SaveChunk:
    """Keep body and witness durably: we are about to vouch for having them."""

    produced: ProducedChunk


@dataclass(frozen=True, slots=True)
class Persist:
    """Append to the log."""

    record: SignedRecord


@dataclass(frozen=True, slots=True)
class Send:
    """Send to validators, by index in the epoch's set; never empty, never ourselves."""

    recipients: tuple[int, ...]
    message: Message


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to everybody."""

    message: Message


@dataclass(frozen=True, slots=True)
class CertificateReady:
    """A certificate is verified and new here: a block may hold the chunk."""

    certified: CertifiedChunk


@dataclass(frozen=True, slots=True)
class Refuse:
    """A message was not taken; only faults cost the sender."""

    sender: bytes | None
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two verified statements that convict somebody."""

    evidence: ShardEvidence


Effect = (
    SetTimer
    | Build
    | Execute
    | SaveChunk
    | Persist
    | Send
    | Broadcast
    | CertificateReady
    | Refuse
    | Conflict
)

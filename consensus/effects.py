"""
What the core wants done: values, in the order in which they must take effect.

A `Persist` or `SavePending` must be on disk before a later `Broadcast` leaves.
"""

from dataclasses import dataclass
from enum import Enum

from consensus.events import Timer
from consensus.messages import Certificate, Message, Proposal, Vote
from consensus.records import Floor, WalRecord


class Reason(Enum):
    """Why a message was not taken."""

    # Nobody's fault: networks deliver late, early and twice.
    STALE = "of a view that is over"
    EARLY = "of a view too far ahead"
    DUPLICATE = "already known"
    OTHER_EPOCH = "of another epoch"
    SURPLUS = "more conflicting votes of one signer than evidence needs"
    # The sender's fault: a correct node checks before it sends.
    UNKNOWN_SIGNER = "signed by nobody in the validator set"
    BAD_SIGNATURE = "the signature does not verify"
    BAD_CERTIFICATE = "the certificate does not verify"
    NOT_LEADER = "proposed by somebody who does not lead the view"
    BAD_PROPOSAL = "a proposal that contradicts itself or its parent"
    BAD_JUST = "certificates that do not justify the proposal"

    @property
    def is_fault(self) -> bool:
        """Whether a correct sender never gives cause for it."""
        return self in _FAULTS


_FAULTS = frozenset(
    {
        Reason.UNKNOWN_SIGNER,
        Reason.BAD_SIGNATURE,
        Reason.BAD_CERTIFICATE,
        Reason.NOT_LEADER,
        Reason.BAD_PROPOSAL,
        Reason.BAD_JUST,
    }
)


@dataclass(frozen=True, slots=True)
class Persist:
    """Append to the log."""

    record: WalRecord


@dataclass(frozen=True, slots=True)
class BeginLog:
    """Begin a new log, in place of the lost one, with this record in it.

    A log without the record must never be there, not even after a crash.
    """

    floor: Floor


@dataclass(frozen=True, slots=True)
class SavePending:
    """Make a held block and its ancestors that are not final yet durable."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to everybody."""

    message: Message
    is_repeat: bool = False
    """Sent before with the same bytes: memories of what was seen must not stop it."""


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Start a timer, in place of the one of this name that may be running."""

    timer: Timer
    view: int
    delay_ms: int


@dataclass(frozen=True, slots=True)
class ScheduleProposal:
    """Give `ProposalDue(view)` at the parent's time plus the interval, or at once."""

    view: int
    parent_hash: bytes


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """Build a block and give `BlockBuilt`."""

    epoch: int
    view: int
    parent_view: int
    parent_hash: bytes
    proposer: int
    """Our own index."""
    bitmap: bytes
    """Attendance: who voted for the parent; empty for children of the root."""
    signature: bytes
    """Attendance: the sum of their votes; empty for children of the root."""


@dataclass(frozen=True, slots=True)
class LoadBlock:
    """Give `BlockBuilt` with the bytes of a held block, to propose it once more."""

    view: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class CheckBlock:
    """Judge a block and give `BlockAdded`, `BlockRefused` or `BlockMismatched`.

    The answer may come later, when an ancestor has to be fetched first.  A proposal
    with `is_repeat` names a block that was proposed before: the block is judged as that
    earlier proposal, which its header gives, and the answer may name either.
    """

    proposal: Proposal
    block: bytes
    sender: bytes | None


@dataclass(frozen=True, slots=True)
class FetchBlock:
    """Get the block that a certificate is about, and its ancestors."""

    proposal: Proposal


@dataclass(frozen=True, slots=True)
class FetchCertificates:
    """Ask others for what they hold of a view."""

    epoch: int
    view: int


@dataclass(frozen=True, slots=True)
class Decide:
    """A held block is final, and so are its ancestors."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class TellEpochEnd:
    """Give a peer the finalization of an epoch's boundary; it seems to lack it.

    The shell bounds how often one peer gets it: a round trip apart.
    """

    peer: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Ask a peer for final blocks: it speaks of an epoch that we are not in yet.

    Nothing is verified: the shell bounds how often it asks.
    """

    peer: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """A message was not taken; only faults cost the sender."""

    sender: bytes | None
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two verified statements that exclude each other: votes of one signer,
    certificates, or a certificate and then a vote of somebody whom it counts.

    Two certificates of this kind prove that more than a third of all power cheats.
    """

    first: Vote | Certificate
    second: Vote | Certificate


Effect = (
    Persist
    | BeginLog
    | SavePending
    | Broadcast
    | SetTimer
    | ScheduleProposal
    | BuildBlock
    | LoadBlock
    | CheckBlock
    | FetchBlock
    | FetchCertificates
    | Decide
    | TellEpochEnd
    | CatchUp
    | Refuse
    | Conflict
)

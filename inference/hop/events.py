"""
What happens to a session at one hop, and what it asks for.

`HopSession.handle` (inference/hop/hop.py) takes events and returns effects; the service
around it (inference/hop/service.py) makes the first from frames, clocks and workers,
and does the second in the order given.
"""

from dataclasses import dataclass
from enum import Enum, auto

from chain.records.proof import Receipt
from inference.protocol.account import SessionAccount
from inference.protocol.codes import AbortCode
from inference.protocol.messages import (
    Abort,
    Data,
    Fetch,
    Finish,
    Kept,
    Leaving,
    Linked,
    Note,
    Probe,
    Progress,
    Relink,
    Unlinked,
)


class Side(Enum):
    """Neighbours of a hop in one session."""

    REQUESTER = auto()
    PREVIOUS = auto()
    NEXT = auto()


# Events


@dataclass(frozen=True, slots=True)
class DataArrived:
    """A step's hidden states."""

    data: Data
    body: bytes
    side: Side


@dataclass(frozen=True, slots=True)
class PayArrived:
    """The requester means this many units of the pool for this session.

    What the message's payments brought is in the channel's account already.
    """

    units: int


@dataclass(frozen=True, slots=True)
class PoolChanged:
    """Another session's payment reached the channel."""


@dataclass(frozen=True, slots=True)
class Computed:
    """The stage has answered."""

    body: bytes
    compute_us: int


@dataclass(frozen=True, slots=True)
class ComputeFailed:
    """The stage has not answered."""

    code: AbortCode
    text: str


@dataclass(frozen=True, slots=True)
class FinishArrived:
    """No more steps will come."""

    finish: Finish
    side: Side


@dataclass(frozen=True, slots=True)
class AbortArrived:
    """A neighbour gave up."""

    abort: Abort
    side: Side


@dataclass(frozen=True, slots=True)
class ProbeArrived:
    """The requester asks how far we are."""

    probe: Probe


@dataclass(frozen=True, slots=True)
class RelinkArrived:
    """The requester changes the route."""

    relink: Relink


@dataclass(frozen=True, slots=True)
class Reached:
    """The stream to the next hop of an attempt is open, or cannot be opened."""

    attempt: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class FetchArrived:
    """The requester wants to know what we sent on."""

    fetch: Fetch


@dataclass(frozen=True, slots=True)
class LeavingSoon:
    """The node is about to stop; the requester may still take another hop."""


@dataclass(frozen=True, slots=True)
class Violated:
    """A neighbour sent what has no place here."""

    side: Side
    code: AbortCode
    text: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream to a neighbour ended."""

    side: Side


@dataclass(frozen=True, slots=True)
class Expired:
    """`deadline_us` has passed."""


@dataclass(frozen=True, slots=True)
class GivingUp:
    """We cannot or do not want to go on; nobody else's fault."""

    code: AbortCode = AbortCode.STOPPING
    text: str = "the node shuts down"


Event = (
    DataArrived
    | PayArrived
    | PoolChanged
    | Computed
    | ComputeFailed
    | FinishArrived
    | AbortArrived
    | ProbeArrived
    | RelinkArrived
    | Reached
    | FetchArrived
    | LeavingSoon
    | Violated
    | Lost
    | Expired
    | GivingUp
)


# Effects


@dataclass(frozen=True, slots=True)
class Compute:
    """Run the layers over one step; answer with Computed or ComputeFailed."""

    position: int
    tokens: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SaveStanding:
    """Write the channel's standing down before anything that follows."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a neighbour."""

    side: Side
    message: (
        Data | Note | Finish | Abort | Progress | Linked | Unlinked | Kept | Leaving
    )
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reach:
    """Let go of both neighbours and open a stream to the next; answer with Reached.

    Without a next one only let go, and answer nothing.
    """

    attempt: int
    peer_id: bytes | None


@dataclass(frozen=True, slots=True)
class KeepReceipt:
    """Tell the world about a signed receipt."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class KeepPages:
    """Let later sessions begin with full pages of this one."""

    first: int
    """The first key's page, counted from 0."""
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Free the stage's memory of this session; stop a computation under way."""


@dataclass(frozen=True, slots=True)
class Blame:
    """A neighbour did what no correct one does."""

    peer_id: bytes
    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The session is over; close the streams."""

    account: SessionAccount


Effect = (
    Compute
    | SaveStanding
    | Send
    | Reach
    | KeepReceipt
    | KeepPages
    | Release
    | Blame
    | End
)

"""
What happens to a session at one hop, and what it asks for.

`HopSession.handle` (inference/hop.py) takes events and returns effects; the service
around it (inference/hop_service.py) makes the first from frames, clocks and workers,
and does the second in the order given.
"""

from dataclasses import dataclass
from enum import Enum, auto

from chain.contracts.proof import Receipt
from inference.messages import Abort, AbortCode, Data, Finish, Note, Probe, Progress
from inference.session_account import SessionAccount


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
    message: Data | Note | Finish | Abort | Progress
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class KeepReceipt:
    """Tell the world about a signed receipt."""

    receipt: Receipt


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


Effect = Compute | SaveStanding | Send | KeepReceipt | Release | Blame | End

"""
What happens to a requester's session, and what it asks for.

`RequesterMachine.handle` (inference/session/session.py) takes events and returns
effects; the shell around it (inference/session/driver.py) does them in the order given.
"""

from dataclasses import dataclass

from inference.protocol.errors import SessionError
from inference.protocol.messages import (
    Abort,
    Data,
    Fetch,
    Finish,
    Message,
    Probe,
    Relink,
    SessionTerms,
)
from inference.sampling.params import Choice
from inference.session.plan import HopPlan, TokenEvent
from primitives.errors import P2PChainError
from primitives.types import EMPTY_HASH

# Events


@dataclass(frozen=True, slots=True)
class Received:
    """A frame from a hop, decoded."""

    hop: int
    """Its number: hops are counted as they join, those of the first route in order."""
    message: Message
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HopGone:
    """The stream to a hop ended, could not be opened, or brought nonsense."""

    hop: int
    text: str
    is_fault: bool = False
    """The hop sent what no correct one sends."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The hidden states of the tokens asked for."""

    step: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Sampled:
    """The tokens that follow from the answer."""

    choice: Choice


@dataclass(frozen=True, slots=True)
class AnswerRejected:
    """The sampler found the answer wrong."""

    text: str


@dataclass(frozen=True, slots=True)
class HopsFound:
    """Who computes the missing layers from now on."""

    search: int
    hops: tuple[HopPlan, ...]
    """In order; they may begin earlier and end later than what was missing, where hops
    of the route do."""


@dataclass(frozen=True, slots=True)
class NoHops:
    """Nobody else computes the missing layers."""

    search: int
    text: str


@dataclass(frozen=True, slots=True)
class LocalFailed:
    """Our own worker or payer failed."""

    error: P2PChainError


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The reader wants no more."""


@dataclass(frozen=True, slots=True)
class Expired:
    """`deadline_us` has passed."""


Event = (
    Received
    | HopGone
    | Embedded
    | Sampled
    | AnswerRejected
    | HopsFound
    | NoHops
    | LocalFailed
    | Cancelled
    | Expired
)


# Effects


@dataclass(frozen=True, slots=True)
class OpenHop:
    """Open a stream to a hop, pay arrears, and send the signed terms."""

    hop: int
    terms: SessionTerms
    plan: HopPlan
    prefix: tuple[bytes, ...] = ()
    """Names of the prompt's beginnings."""
    scope: bytes = EMPTY_HASH
    """What they are valid with."""
    keeps: bool = True
    """Whether the hop may keep what it computes."""


@dataclass(frozen=True, slots=True)
class FindHops:
    """Find hops for the layers [start, end); answer with HopsFound or NoHops."""

    search: int
    start: int
    end: int
    excluded: frozenset[bytes]
    """Node keys that are in the route, or were lost just now."""
    lost: tuple[SessionError, ...]
    """What became of those that are missing."""
    positions: int
    """To be computed anew."""


@dataclass(frozen=True, slots=True)
class Embed:
    """Look tokens up; answer with Embedded or LocalFailed."""

    step: int
    position: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Choose tokens; answer with Sampled, AnswerRejected or LocalFailed."""

    body: bytes
    tokens: int
    drafts: tuple[int, ...] = ()
    """Guesses that the step carried."""
    wanted: int = 0
    """Guesses that the next one may carry."""


@dataclass(frozen=True, slots=True)
class SendTo:
    """Send a message to a hop."""

    hop: int
    message: Data | Finish | Abort | Probe | Relink | Fetch
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class PayHop:
    """Release so many units for a step."""

    hop: int
    step: int
    units: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Give a token to the reader."""

    token: TokenEvent


@dataclass(frozen=True, slots=True)
class Blame:
    """A hop did what no correct one does."""

    peer_id: bytes
    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The session is over; close the streams."""

    finish_reason: str
    error: P2PChainError | None


Effect = OpenHop | FindHops | Embed | Sample | SendTo | PayHop | Emit | Blame | End

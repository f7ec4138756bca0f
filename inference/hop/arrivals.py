"""What a neighbour's message means to a hop's session, and what has no place there."""

from dataclasses import dataclass

from inference.hop.events import (
    AbortArrived,
    DataArrived,
    Event,
    FetchArrived,
    FinishArrived,
    Lost,
    ProbeArrived,
    RelinkArrived,
    Side,
    Violated,
)
from inference.hop.ports import Stream
from inference.protocol.codes import AbortCode
from inference.protocol.messages import (
    Abort,
    Data,
    Fetch,
    Finish,
    Message,
    Pay,
    Probe,
    Relink,
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A decoded frame, or the end of a stream, and where it came from."""

    side: Side
    stream: Stream
    message: Message | Lost | Violated
    body: bytes = b""


def read_arrival(arrival: Arrival, session: bytes) -> Event | Pay:
    """Return the event that an arrival is; payments are for the book first.

    Args:
        arrival: Of a stream that the session has now.
        session: Its name.
    """
    side, message = arrival.side, arrival.message
    if isinstance(message, Lost | Violated):
        return message
    about = message.terms if isinstance(message, Relink) else message
    if getattr(about, "session", b"") == session:
        match message:
            case Data():
                return DataArrived(message, arrival.body, side)
            case Finish():
                return FinishArrived(message, side)
            case Abort():
                return AbortArrived(message, side)
            case Pay() if side is Side.REQUESTER:
                return message
            case Probe() if side is Side.REQUESTER:
                return ProbeArrived(message)
            case Relink() if side is Side.REQUESTER:
                return RelinkArrived(message)
            case Fetch() if side is Side.REQUESTER:
                return FetchArrived(message)
    text = f"{type(message).__name__} from the {side.name.lower()}"
    return Violated(side, AbortCode.PROTOCOL, text)

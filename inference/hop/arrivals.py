"""What a neighbour's message means to a hop's session, and what has no place there."""

from inference.hop.events import (
    AbortArrived,
    DataArrived,
    Event,
    FetchArrived,
    FinishArrived,
    ProbeArrived,
    RelinkArrived,
    Side,
    Violated,
)
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


def read_message(
    side: Side, message: Message, body: bytes, session: bytes
) -> Event | Pay:
    """Return the event that a message is; payments are for the book first.

    Args:
        side: Who sent it.
        message: What came.
        body: Hidden states that came with it.
        session: The session's name.
    """
    about = message.terms if isinstance(message, Relink) else message
    if getattr(about, "session", b"") == session:
        match message:
            case Data():
                return DataArrived(message, body, side)
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

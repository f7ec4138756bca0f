"""What a requester makes of a hop's no, and what it tells the others."""

from inference.messages import Abort, AbortCode, Refuse
from inference.session_errors import (
    HopAborted,
    HopLost,
    HopRefused,
    ReceiptMismatch,
    SessionError,
    StepTimeout,
    WrongAnswer,
)
from inference.session_route import Route, RouteHop
from primitives.errors import P2PChainError

_ABORT_CODES = (
    (HopLost, AbortCode.PEER_LOST),
    (WrongAnswer, AbortCode.BAD_DATA),
    (ReceiptMismatch, AbortCode.BAD_RECEIPT),
    (StepTimeout, AbortCode.TIMEOUT),
)

_MENDED_CODES = (
    AbortCode.PEER_LOST,
    AbortCode.STAGE_LOST,
    AbortCode.TIMEOUT,
    AbortCode.STOPPING,
    AbortCode.INTERNAL,
)
"""A hop that gives up for these can be replaced; the others are somebody's lie."""


def build_refusal(hop: RouteHop, message: Refuse) -> SessionError:
    """Return a hop's refusal to open the session as an error."""
    return HopRefused(
        f"{hop.name} refused: {message.text}",
        peer_id=hop.peer_id,
        code=message.code,
        owed_units=message.owed_units,
    )


def build_abort(route: Route, hop: RouteHop, message: Abort) -> SessionError:
    """Return a hop's end of the session as an error about whom it blames."""
    culprit = route.find(message.culprit) or hop
    text = f"{hop.name}: {message.text}"
    kind = HopLost if message.code == AbortCode.PEER_LOST else HopAborted
    return kind(text, peer_id=culprit.peer_id, code=message.code)


def can_be_mended(error: SessionError) -> bool:
    """Tell whether another hop could do what this one does not."""
    if isinstance(error, HopAborted):
        return error.code in _MENDED_CODES
    return isinstance(error, HopLost | HopRefused | StepTimeout)


def get_abort_code(error: P2PChainError) -> AbortCode:
    """Return what the other hops are told when a session fails."""
    codes = (code for kind, code in _ABORT_CODES if isinstance(error, kind))
    return next(codes, AbortCode.CANCELLED)

"""What a requester makes of a hop's no, and what it tells the others."""

from inference.protocol.codes import AbortCode
from inference.protocol.errors import (
    BrokenChain,
    HopAborted,
    HopAccused,
    HopLost,
    HopRefused,
    ReceiptMismatch,
    SessionError,
    StepTimeout,
    WrongAnswer,
)
from inference.protocol.messages import Abort, Refuse, Unlinked
from inference.session.route import RouteHop
from primitives.errors import P2PChainError

_ABORT_CODES = (
    (HopLost, AbortCode.PEER_LOST),
    (WrongAnswer, AbortCode.BAD_DATA),
    (ReceiptMismatch, AbortCode.BAD_RECEIPT),
    (StepTimeout, AbortCode.TIMEOUT),
)

MAX_FAULTS = 4
"""Hops of one session that did wrong and were replaced: more are no accident, and the
fault may be ours."""

_FAULT_CODES = (
    AbortCode.BAD_PAYMENT,
    AbortCode.BAD_DATA,
    AbortCode.BAD_RECEIPT,
    AbortCode.PROTOCOL,
)


def build_refusal(hop: RouteHop, message: Refuse) -> SessionError:
    """Return a hop's refusal to open the session as an error."""
    return HopRefused(
        f"{hop.name} refused: {message.text}",
        peer_id=hop.peer_id,
        code=message.code,
        owed_units=message.owed_units,
    )


def build_abort(hop: RouteHop, message: Abort) -> SessionError:
    """Return a hop's end of the session as an error about that hop.

    Whom it blames is its own affair: a correct hop goes on without a neighbour that
    does wrong (Unlinked).
    """
    text = f"{hop.name}: {message.text}"
    kind = HopLost if message.code == AbortCode.PEER_LOST else HopAborted
    return kind(text, peer_id=hop.peer_id, code=message.code)


def is_fault(error: SessionError) -> bool:
    """Tell whether a hop did wrong, and was not merely lost."""
    if isinstance(error, HopAborted):
        return error.code in _FAULT_CODES
    return isinstance(error, WrongAnswer | ReceiptMismatch)


def can_be_mended(error: SessionError, *, is_in_doubt: bool) -> bool:
    """Tell whether another hop could do what this one does not.

    A wrong answer is known at once, and the step is made again.  Of bytes that nobody
    has signed for it is known only when their range closes: whoever was shown a token
    from them has perhaps been shown nonsense, and others have computed on with them.
    That cannot be made good, so it is said.

    Args:
        error: What became of a hop.
        is_in_doubt: Whether tokens were chosen from the range under way.
    """
    is_broken = isinstance(error, BrokenChain) or (
        isinstance(error, HopAborted) and error.code == AbortCode.BAD_RECEIPT
    )
    return not (is_broken and is_in_doubt)


def build_accusation(hop: RouteHop, peer: RouteHop, message: Unlinked) -> SessionError:
    """Return what a hop says of its neighbour as an error about one of the two.

    It is one's word against the other's.  The first time the neighbour is replaced;
    whoever accuses again is the one to go.
    """
    hop.accusations += 1
    if hop.accusations > 1:
        text = f"{hop.name} accuses one neighbour after the other"
        return HopAborted(text, peer_id=hop.peer_id, code=AbortCode.PROTOCOL)
    text = f"{hop.name}: {message.text or 'a neighbour did wrong'}"
    return HopAccused(text, peer_id=peer.peer_id, code=message.code)


def get_abort_code(error: P2PChainError) -> AbortCode:
    """Return what the other hops are told when a session fails."""
    codes = (code for kind, code in _ABORT_CODES if isinstance(error, kind))
    return next(codes, AbortCode.CANCELLED)

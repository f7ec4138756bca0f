"""
Errors of sessions: what ends one, and whose fault it is.

    LocalError
    |- PaymentFailed        our own payer could not pay (deposit exhausted, not known)
    RemoteError
    |- BadMessage           not a message of this protocol, or out of its bounds
    |- SessionError         a session ended before its answer was complete
       |- HopRefused        a hop said no to OPEN; carries code and units owed
       |- HopAborted        a hop gave up in the middle; carries code
          |- HopAccused     another hop says that it did wrong
       |- HopLost           a hop's connection or process is gone
       |- StepTimeout       a hop is there but did not answer within the deadline
       |- WrongAnswer       wrong length, wrong place, or not finite numbers
       |- ReceiptMismatch   a receipt is missing or disagrees with what was exchanged
          |- BrokenChain    two hops signed for different bytes

`BadAnswer` of `inference.errors` is the worker's own word for a wrong answer; a session
turns it into `WrongAnswer`, which names the hop.
"""

from primitives.errors import LocalError, RemoteError


class PaymentFailed(LocalError):
    """Our own payer cannot pay what this session owes."""


class BadMessage(RemoteError):
    """Bytes that no correct peer sends in a session."""


class SessionError(RemoteError):
    """A session ended early; nothing that was not delivered is paid.

    Attributes:
        peer_id: Node key of the hop it is about, or empty where no hop is to blame.
        code: A value of `RefuseCode` or `AbortCode`, 0 where neither applies.
    """

    def __init__(self, text: str, *, peer_id: bytes = b"", code: int = 0) -> None:
        super().__init__(text)
        self.peer_id = peer_id
        self.code = code


class HopRefused(SessionError):
    """A hop did not accept the session."""

    def __init__(
        self, text: str, *, peer_id: bytes, code: int, owed_units: int = 0
    ) -> None:
        super().__init__(text, peer_id=peer_id, code=code)
        self.owed_units = owed_units
        """Units of an earlier session to pay first, when the code is UNPAID."""


class HopAborted(SessionError):
    """A hop ended the session and said why."""


class HopAccused(HopAborted):
    """Another hop says that this one did wrong: one's word against the other's."""


class HopLost(SessionError):
    """A hop's connection is gone, or it no longer answers at all."""


class StepTimeout(SessionError):
    """A hop answers probes but did not compute its step within the deadline."""


class WrongAnswer(SessionError):
    """An answer of the wrong shape or with numbers that are not finite."""


class ReceiptMismatch(SessionError):
    """A hop's receipt is missing, forged, or about other bytes or prices."""


class BrokenChain(ReceiptMismatch):
    """Receipts of one range that do not fit together: what came may be anything."""

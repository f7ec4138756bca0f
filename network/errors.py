"""
Errors of the network, sorted by whose fault they are.

    LocalError
    |- NetworkStopped        nothing runs, or it is being shut down
    |- ListenFailed          the port is in use or not ours to take
    |- MessageTooBig         we tried to send more than the peer would take
    |- TooManyStreams        we opened more streams to a peer than it would take
    RemoteError
    |- ProtocolViolation     a frame no correct peer sends; carries the Fault
    DecodeError
    |- InvalidEndpoint       text that is not p2p://<key>@host:port
    MissingError
    |- NetworkError          nobody's fault: connections end and peers are away
       |- PeerUnreachable    no connection and none can be made now
       |- PeerLost           the connection ended while in use
       |- StreamClosed       the other side finished; everything sent was received
       |- StreamReset        the other side (or we) gave the stream up; carries a code
       |- RequestTimeout     no answer in time
       |- TamperedRecord     a ciphertext that does not authenticate
       |- HandshakeFailed
          |- BadHandshake    bytes that are no handshake
          |- WrongVersion    another version of the protocol
          |- WrongChain      a node of another chain
          |- WrongPeer       somebody else answered at this endpoint
          |- SelfConnection  we reached ourselves
          |- HandshakeTimeout
          |- Refused         the other side said goodbye; carries its reason
"""

from enum import IntEnum

from network.faults import Fault
from primitives.errors import DecodeError, LocalError, MissingError, RemoteError


class GoodbyeCode(IntEnum):
    """Why one side ends a connection."""

    SHUTDOWN = 0
    FULL = 1
    BANNED = 2
    DUPLICATE = 3
    """Another connection between the two nodes is kept instead."""
    PROTOCOL = 4
    SLOW = 5
    """The receiver of this did not read for too long."""


class ResetCode(IntEnum):
    """Why one side gives a stream up."""

    CANCELLED = 0
    UNKNOWN_PROTOCOL = 1
    BUSY = 2
    """Too many handlers of this peer are running."""
    TOO_BIG = 3
    INTERNAL = 4
    """The handler failed; our fault, not the caller's."""
    BAD_REQUEST = 5
    """The handler found the request invalid; the caller's fault."""
    NOT_FOUND = 6
    """The handler does not have what was asked for."""
    STALLED = 7
    """A message that was begun did not arrive in time."""


class NetworkStopped(LocalError):
    """The network is not running."""


class ListenFailed(LocalError):
    """We cannot listen at the address given."""


class TooManyStreams(LocalError):
    """More streams to one peer than both sides allow."""


class MessageTooBig(LocalError):
    """A message of ours is above the bound of its topic or stream."""


class InvalidEndpoint(DecodeError):
    """Not an endpoint in text form."""


class ProtocolViolation(RemoteError):
    """The peer sent what no correct peer sends; its connection ends."""

    def __init__(self, text: str, fault: Fault = Fault.PROTOCOL) -> None:
        super().__init__(text)
        self.fault = fault


class NetworkError(MissingError):
    """Something did not arrive, and nobody is to blame."""


class PeerUnreachable(NetworkError):
    """There is no connection to the peer and none could be made."""

    def __init__(self, peer_id: bytes, reason: str) -> None:
        super().__init__(f"peer {peer_id.hex()[:8]} is out of reach: {reason}")
        self.peer_id = peer_id
        self.reason = reason


class PeerLost(NetworkError):
    """The connection that carried this ended."""

    def __init__(self, peer_id: bytes, reason: str) -> None:
        super().__init__(f"connection to {peer_id.hex()[:8]} ended: {reason}")
        self.peer_id = peer_id
        self.reason = reason


class StreamClosed(NetworkError):
    """The stream ended in order; nothing was lost."""


class StreamReset(NetworkError):
    """The stream was given up; messages may be lost."""

    def __init__(self, code: ResetCode, ours: bool = False) -> None:
        side = "by us" if ours else "by the peer"
        super().__init__(f"stream reset {side}: {code.name.lower()}")
        self.code = code
        self.ours = ours


class RequestTimeout(NetworkError):
    """No answer in the time that the caller gave."""


class TamperedRecord(NetworkError):
    """A record does not authenticate: changed or lost on the path."""


class HandshakeFailed(NetworkError):
    """No connection was made."""


class BadHandshake(HandshakeFailed):
    """Bytes that do not belong to our handshake, or that were changed."""


class WrongVersion(HandshakeFailed):
    """The other side speaks another version of the protocol."""


class WrongChain(HandshakeFailed):
    """The other side belongs to another chain."""


class WrongPeer(HandshakeFailed):
    """The node that answered is not the one that was dialled."""


class SelfConnection(HandshakeFailed):
    """Both ends are this node."""


class HandshakeTimeout(HandshakeFailed):
    """The handshake did not finish in time."""


class Refused(HandshakeFailed):
    """The other side knows who we are and said goodbye."""

    def __init__(self, code: GoodbyeCode) -> None:
        super().__init__(f"refused: {code.name.lower()}")
        self.code = code

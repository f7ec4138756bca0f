"""
The error tree: sorted by whose fault it is.

    P2PChainError
    |- LocalError       ours or the operator's: configuration, disk, a broken belief
    |- RemoteError      somebody sent what no correct sender sends; it costs the sender
    |  |- DecodeError   bytes that are not the canonical form of anything expected
    |- MissingError     nobody's fault yet: data that may still arrive

Every package derives its own errors from these in its `errors.py`.
"""


class P2PChainError(Exception):
    """Root of every error that this project raises on purpose."""


class LocalError(P2PChainError):
    """Our own fault or the operator's; never costs a peer anything."""


class RemoteError(P2PChainError):
    """The sender's fault; the connection that brought it pays for it."""


class MissingError(P2PChainError):
    """Data is not here yet; a reason to wait or to fetch, never to punish."""


class DecodeError(RemoteError):
    """Bytes that are not the canonical encoding of the expected type."""

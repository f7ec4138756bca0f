"""Why a hop refuses or ends a session, and how far it is: numbers on the wire."""

from enum import IntEnum


class RefuseCode(IntEnum):
    """Why a hop does not open a session."""

    BUSY = 1
    """No room now."""
    NOT_SERVED = 2
    """These layers in this profile are not served here (any more, or yet)."""
    TERMS = 3
    """Prices below ours, or bounds above ours."""
    CHANNEL = 4
    """No such open channel to us from this client."""
    UNPAID = 5
    """An earlier step on this channel was never paid; `owed_units` says how much."""
    DEPOSIT = 6
    """What is left in the channel does not pay the first step."""
    UNREACHABLE = 7
    """We cannot reach the next hop."""
    INVALID = 8
    """The message contradicts itself, or its signature is wrong."""


class AbortCode(IntEnum):
    """Why an open session ends before its answer is complete."""

    CANCELLED = 1
    """The requester does not want more."""
    PEER_LOST = 2
    """A connection of the route ended."""
    STAGE_LOST = 3
    """The process that holds the layers died."""
    UNPAID = 4
    """The payment for an earlier step did not come in time."""
    BAD_PAYMENT = 5
    BAD_DATA = 6
    """Wrong step, shape, length or numbers."""
    BAD_RECEIPT = 7
    """The receipt that came along is about other bytes."""
    TIMEOUT = 8
    """Nothing happened for too long."""
    STOPPING = 9
    """The node shuts down."""
    INTERNAL = 10
    PROTOCOL = 11
    """A message that has no place in this state."""
    TOO_MUCH = 12
    """More was asked for than is given for nothing."""


class Activity(IntEnum):
    """How far a hop is with a step that the requester asks about."""

    NO_DATA = 1
    NO_PAYMENT = 2
    COMPUTING = 3
    DONE = 4

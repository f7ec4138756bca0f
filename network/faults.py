"""
What a peer can be blamed for, and what it costs.

Only what a correct peer never does is a fault.  Bytes that somebody on the path could
have changed, a connection that breaks and an error of ours are nobody's fault here.
"""

from enum import IntEnum


class Fault(IntEnum):
    """Classes of misbehaviour; the value is the number of points one costs.

    A hundred points are a ban (see `network.scores`).
    """

    TIMEOUT = 4
    """Promised something and did not deliver in time; may be bad luck."""
    FLOOD = 10
    """More than its budget; charged at most once a second."""
    BAD_MESSAGE = 20
    """A gossip message or an answer that no correct node makes."""
    OVERSIZE = 34
    """A message above the bound of its topic or protocol."""
    PROTOCOL = 50
    """A frame that the protocol does not allow; the connection ends as well."""
    FORGERY = 100
    """Proof of bad intent, such as a false signature under its own name."""

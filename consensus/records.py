"""
What the log keeps: our votes, how we advanced, and from where on we may sign.
"""

from consensus.messages import Certificate, Finalize, Notarize, Nullify
from primitives.codec import Record
from primitives.types import Epoch, View


class Floor(Record, tag=6):
    """Sign nothing in earlier epochs, and nothing at or below a view of this one.

    It stands for votes that the log no longer holds, or lost.  The tag is one that no
    message has.
    """

    epoch: Epoch
    view: View
    """0 allows all of the epoch."""


WalRecord = Notarize | Nullify | Finalize | Certificate | Floor


def get_place(record: WalRecord) -> tuple[int, int]:
    """Return the (epoch, view) that a record is about."""
    match record:
        case Notarize() | Finalize():
            return record.proposal.epoch, record.proposal.view
        case Nullify() | Certificate() | Floor():
            return record.epoch, record.view

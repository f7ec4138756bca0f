"""How far a shard is with what a change of its layout asks of it."""

from chain.ledger.ledger import Ledger
from chain.records.keys import PROGRESS_KEY
from primitives.codec import Record
from primitives.types import U32, Epoch


class Progress(Record):
    """A walk through a list or through buckets, a step per chunk."""

    changed_epoch: Epoch
    """Which change."""
    next: U32
    """Where the next step begins."""
    is_done: bool


def get_progress(ledger: Ledger, changed_epoch: Epoch) -> Progress:
    """Return how far the walk for a change is; not begun, if the last was another's."""
    progress = ledger.get(PROGRESS_KEY, Progress)
    if progress is None or progress.changed_epoch != changed_epoch:
        return Progress(changed_epoch, 0, False)
    return progress

"""Signatures that were checked already: each one costs 130 us, so once is enough."""

from collections import OrderedDict

MAX_VERIFIED = 65_536
"""Ids remembered: a minute of full blocks, 6 MB."""


class VerifiedCache:
    """A bounded set of transaction ids whose signature is good.

    The id covers the signature, so an id can stand for the check.  The mempool fills
    the set and execution reads it.
    """

    def __init__(self, capacity: int = MAX_VERIFIED) -> None:
        self._capacity = capacity
        self._ids: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, tx_id: bytes) -> bool:
        return tx_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, tx_id: bytes) -> None:
        """Remember an id; the oldest one goes when there is no room."""
        self._ids[tx_id] = None
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)

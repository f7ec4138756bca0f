"""
One payer for many sessions: every stream gets to see every voucher it needs.

Sessions of one channel pay over streams of their own, and streams overtake each other.
A payment that releases a preimage means nothing to a payee who has not seen the voucher
whose chain it belongs to, so the first payment under a voucher on each stream carries
it, whichever stream had it signed.
"""

from typing import Protocol

from chain.records.channel import Payment


class Purse(Protocol):
    """The book that pays; wallet/book.py has one."""

    def pay(self, channel_id: bytes, units: int) -> Payment:
        """Release units and write that down."""

    def repeat_voucher(self, channel_id: bytes) -> None:
        """Let the next payment carry the current voucher again."""


class SharedPayer:
    """The `Payer` port over one purse; one object for all streams of a node."""

    def __init__(self, purse: Purse) -> None:
        self._purse = purse
        self._roots: dict[bytes, bytes] = {}
        """Chain root of each channel's newest voucher."""
        self._holders: dict[bytes, set[bytes]] = {}
        """Streams that have carried it, by channel."""

    def pay(self, stream: bytes, channel_id: bytes, units: int) -> Payment:
        """Pay over one stream; raises what the purse raises."""
        holders = self._holders.setdefault(channel_id, set())
        if stream not in holders:
            self._purse.repeat_voucher(channel_id)
        payment = self._purse.pay(channel_id, units)
        voucher = payment.voucher
        if voucher is not None:
            if self._roots.get(channel_id) != voucher.chain_root:
                self._roots[channel_id] = voucher.chain_root
                holders.clear()
            holders.add(stream)
        return payment

    def forget(self, stream: bytes) -> None:
        """Drop a stream that is over."""
        for channel_id, holders in list(self._holders.items()):
            holders.discard(stream)
            if not holders:
                del self._holders[channel_id]
                self._roots.pop(channel_id, None)

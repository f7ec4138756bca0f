"""
Receipts as they are signed: the topic `work`.

Every node sees who computes what, live, and can hold it against the work records that
settlements post later.  A receipt is passed on when its signature is good and its
signer is a registered node; a flood of strangers' receipts stops at the first hop.
"""

import time
from collections import deque
from collections.abc import Callable

from chain.records.proof import Receipt, verify_receipt
from network.network import Network
from network.topics import Topic, Verdict
from p2pchain.api.completion import SeenReceipt
from primitives.codec import decode, encode
from primitives.errors import DecodeError

MAX_RECEIPTS = 1000
"""What an explorer shows of the last minutes; a busy devnet signs ten a second."""
MAX_RECEIPT_BYTES = 1024
"""A receipt is below 500 bytes."""


class WorkFeed:
    """The last receipts, our own and those of others."""

    def __init__(
        self, network: Network, chain_id: bytes, is_provider: Callable[[bytes], bool]
    ) -> None:
        """
        Args:
            network: Carries the topic.
            chain_id: Receipts of other chains are refused.
            is_provider: Tells whether a node key belongs to a registration.
        """
        self._network = network
        self._chain_id = chain_id
        self._is_provider = is_provider
        self._seen: deque[SeenReceipt] = deque(maxlen=MAX_RECEIPTS)
        network.subscribe(Topic.WORK, self._check)

    def publish(self, receipt: Receipt) -> None:
        """Tell the world about a receipt of our own."""
        self._keep(receipt)
        self._network.publish(Topic.WORK, encode(receipt))

    def get_latest(self, limit: int) -> tuple[SeenReceipt, ...]:
        """Return up to `limit` receipts, newest first."""
        count = min(limit, len(self._seen))
        return tuple(self._seen[-1 - index] for index in range(count))

    async def _check(self, peer_id: bytes, payload: bytes) -> Verdict:
        try:
            receipt = decode(Receipt, payload, MAX_RECEIPT_BYTES)
        except DecodeError:
            return Verdict.REJECT
        if receipt.chain_id != self._chain_id:
            return Verdict.REJECT
        if not self._is_provider(receipt.node):
            # A registration that has not reached us yet looks like this too.
            return Verdict.IGNORE
        if not verify_receipt(receipt):
            return Verdict.REJECT
        self._keep(receipt)
        return Verdict.ACCEPT

    def _keep(self, receipt: Receipt) -> None:
        self._seen.append(
            SeenReceipt(receipt=receipt, seen_ms=time.time_ns() // 1_000_000)
        )

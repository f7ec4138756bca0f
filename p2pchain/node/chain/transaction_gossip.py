"""
Transactions to and from peers, in bundles.

A message costs more than the transaction in it does, apart from its signature; so what
comes within a few milliseconds travels together.  A bundle goes on as it came, if all
of it was taken; what else was taken of it goes on in a bundle of ours.  So nothing
unchecked is forwarded, and a bundle of old transactions with a new one carries no more
than the new one any further.

Spec: docs/protocol/09-network.md
"""

from collections.abc import Callable, Iterator, Sequence

import trio

from chain.errors import (
    AlreadyKnown,
    CannotPay,
    CongestedShard,
    DoubleSpend,
    Expired,
    InvalidTransaction,
    NonceGap,
    PoolFull,
    ShardHalted,
    ValidityTooLong,
    WrongNonce,
)
from chain.execution.held import HeldBlock
from chain.mempool import Mempool
from network.network import Network
from network.topics import Topic, Verdict
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError

GATHER_S = 0.02
"""How long the first transaction of a bundle waits for others; 2 % of a block."""
MAX_BUNDLED = 64
"""Transactions in a bundle: about 4 ms of checking, so that votes need not wait."""
MAX_BUNDLE_BYTES = 64 * 1024
"""Of its transactions together, half of what the topic allows."""

NOBODYS_FAULT = (
    AlreadyKnown,
    CannotPay,
    CongestedShard,
    DoubleSpend,
    Expired,
    NonceGap,
    PoolFull,
    ShardHalted,
    ValidityTooLong,
)
"""Refusals that a correct peer runs into: its final block or its pool is not ours, or
somebody told it one half of a double spend and us the other."""


class Bundle(Record):
    """A message on the topic of transactions."""

    transactions: tuple[bytes, ...]
    """Signed ones, 1 to `MAX_BUNDLED`."""


class TransactionGossip:
    """What peers hear of our mempool, and our mempool of them.

    Args:
        network: Its topic TRANSACTIONS is ours.
        mempool: Judges.
        get_final: Returns the last final block.
    """

    def __init__(
        self, network: Network, mempool: Mempool, get_final: Callable[[], HeldBlock]
    ) -> None:
        self._network = network
        self._mempool = mempool
        self._get_final = get_final
        self._untold: list[bytes] = []
        self._filled = trio.Event()
        self._is_running = False
        network.subscribe(Topic.TRANSACTIONS, self._check)

    async def run(self) -> None:
        """Gather what is to be told; without this every transaction goes alone."""
        self._is_running = True
        try:
            while True:
                await self._filled.wait()
                await trio.sleep(GATHER_S)
                self._filled = trio.Event()
                self._publish()
        finally:
            self._is_running = False

    def tell(self, signed_bytes: bytes) -> None:
        """Send every peer a transaction that our mempool has taken."""
        self._untold.append(signed_bytes)
        if self._is_running:
            self._filled.set()
        else:
            self._publish()

    def _publish(self) -> None:
        untold, self._untold = self._untold, []
        for bundle in split_bundles(untold):
            self._network.publish(Topic.TRANSACTIONS, encode(bundle))

    async def _check(self, peer_id: bytes, payload: bytes) -> Verdict:
        try:
            bundle = decode(Bundle, payload)
        except DecodeError:
            return Verdict.REJECT
        if not 1 <= len(bundle.transactions) <= MAX_BUNDLED:
            return Verdict.REJECT
        taken, is_sound = self._take(bundle.transactions)
        if len(taken) == len(bundle.transactions):
            return Verdict.ACCEPT
        for signed_bytes in taken:
            self.tell(signed_bytes)
        return Verdict.IGNORE if is_sound else Verdict.REJECT

    def _take(self, transactions: Sequence[bytes]) -> tuple[list[bytes], bool]:
        """Return what the mempool took, and whether a correct peer may send it all."""
        taken: list[bytes] = []
        final = self._get_final()
        for signed_bytes in transactions:
            try:
                self._mempool.add(signed_bytes, final)
            except InvalidTransaction as error:
                # A nonce may be too low because the block that used it came first.
                if isinstance(error, NOBODYS_FAULT) or type(error) is WrongNonce:
                    continue
                return taken, False
            taken.append(signed_bytes)
        return taken, True


def split_bundles(transactions: Sequence[bytes]) -> Iterator[Bundle]:
    """Yield bundles of transactions, in their order."""
    gathered: list[bytes] = []
    length = 0
    for signed_bytes in transactions:
        is_full = length + len(signed_bytes) > MAX_BUNDLE_BYTES
        if gathered and (is_full or len(gathered) == MAX_BUNDLED):
            yield Bundle(tuple(gathered))
            gathered, length = [], 0
        gathered.append(signed_bytes)
        length += len(signed_bytes)
    if gathered:
        yield Bundle(tuple(gathered))

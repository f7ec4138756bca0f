"""
The client's channels: open, filled and ready before a session needs them.

One channel per provider is kept and used again; it is opened or topped up on chain when
what is left in it does not cover the longest answer that the session may have, so that
no answer stops for lack of funds in the middle.
"""

import trio

from chain.contracts.channel import (
    Channel,
    ChannelStatus,
    OpenChannels,
    Opening,
    TopUp,
)
from chain.contracts.registration import Registration
from chain.transaction import Payload
from p2pchain.errors import NotReady
from p2pchain.node.chain_service import ChainService
from p2pchain.node.treasury import Treasury
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN, ShardId
from wallet.book import PayerBook
from wallet.payer import PayerChannel

MIN_DEPOSIT = ATOMS_PER_COIN // 20
"""Fifty answers of the bundled model; opening a channel costs a fee each time."""
DEPOSIT_SESSIONS = 4
"""Longest sessions that a new deposit covers."""
FLUSH_S = 1.0
"""What a power cut can make us forget of our payments."""
UNITS_PER_STEP = 8
"""A unit is at most an eighth of a decode step, so rounding up costs little."""


class ChannelPool:
    """The channels of this node's wallet to providers."""

    def __init__(
        self,
        chain: ChainService,
        treasury: Treasury,
        book: PayerBook,
        session_key: SecretKey,
    ) -> None:
        """
        Args:
            chain: Where the channels are.
            treasury: Pays the deposits.
            book: What was promised over each channel.
            session_key: Signs vouchers.
        """
        self._session_key = session_key
        self._chain = chain
        self._treasury = treasury
        self._book = book
        self._preparing = trio.Lock()

    def get_promised(self, channel_id: bytes) -> int:
        """Return the atoms paid off chain over a channel of ours."""
        if channel_id not in self._book:
            return 0
        return self._book.get(channel_id).paid_total

    async def run(self) -> None:
        """Keep the book safe from power cuts until cancelled."""
        while True:
            await trio.sleep(FLUSH_S)
            self._book.flush()

    def flush(self) -> None:
        """Make the book safe from a power cut."""
        self._book.flush()

    async def prepare(self, needs: dict[bytes, tuple[Registration, int]]) -> None:
        """Bring the channel to every provider to the atoms that a session may take.

        Args:
            needs: Registration and atoms by the provider's account.

        Raises:
            InsufficientFunds: All shards together hold too little.
            TransactionFailed, NotReady: The chain refused, or is not ready.
        """
        async with self._preparing:
            requests = self._plan(needs)
            if requests:
                await self._treasury.execute_all(requests)
            for registration, _ in needs.values():
                self._enter(registration)

    def find(self, registration: Registration) -> Channel | None:
        """Return our open channel to a provider, as the chain shows it."""
        return self._chain.queries.find_channel(
            payer=self._treasury.address,
            payee=registration.account,
            shard=registration.home,
        )

    def build_opening(
        self, registration: Registration, deposit: int, unit_price: int | None = None
    ) -> Opening:
        """Return an opening to a provider with our session key as its signer."""
        return Opening(
            payee=registration.account,
            signer=self._session_key.public_key,
            deposit=deposit,
            unit_price=unit_price or compute_unit_price(registration),
        )

    def _plan(
        self, needs: dict[bytes, tuple[Registration, int]]
    ) -> list[tuple[ShardId, Payload, int]]:
        """Return what to run on chain; openings of one shard go in one batch."""
        openings: dict[ShardId, list[Opening]] = {}
        requests: list[tuple[ShardId, Payload, int]] = []
        for registration, need in needs.values():
            deposit = max(MIN_DEPOSIT, DEPOSIT_SESSIONS * need)
            channel = self.find(registration)
            if channel is None:
                opening = self.build_opening(registration, deposit)
                openings.setdefault(registration.home, []).append(opening)
                continue
            spent = max(channel.settled, self.get_promised(channel.channel_id))
            # A pending close is cancelled by a top-up, too.
            if (
                channel.deposit - spent < need
                or channel.status is ChannelStatus.CLOSING
            ):
                top_up = TopUp(channel.channel_id, deposit)
                requests.append((channel.shard, top_up, deposit))
        for shard, batch in openings.items():
            amount = sum(opening.deposit for opening in batch)
            requests.append((shard, OpenChannels(tuple(batch)), amount))
        return requests

    def _enter(self, registration: Registration) -> None:
        """Take a channel into the book as the chain shows it now."""
        channel = self.find(registration)
        if channel is None:
            raise NotReady("the channel is not open yet; try again in a moment")
        chain_id, signer = self._chain.chain_id, self._session_key
        self._book.add(PayerChannel.from_channel(chain_id, channel, signer))


def compute_unit_price(registration: Registration) -> int:
    """Return the unit for a new channel to a provider, in atoms, rounded down."""
    layers = registration.end - registration.start
    return max(1, registration.output_price * layers // UNITS_PER_STEP)

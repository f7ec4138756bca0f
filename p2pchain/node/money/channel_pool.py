"""
The client's channels: open, filled and ready before a session needs them.

One channel per provider is kept and used again; it is opened or topped up on chain when
what is left in it does not cover the longest answer that the session may have, so that
no answer stops for lack of funds in the middle.  Sessions that run at the same time
each have their part of a channel reserved.

A channel whose close was requested ends by itself: after the grace window its rest
comes back.  Opening anew or topping up is what a request for an answer does.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from chain.queries.paging import MAX_PAGE
from chain.records.channel import (
    MAX_OPENINGS,
    Channel,
    ChannelStatus,
    OpenChannels,
    Opening,
    TopUp,
    Withdraw,
)
from chain.records.registration import Registration
from inference.protocol.steps import PREFILL_TOKENS
from inference.sampling.speculation import FREE_GUESSES
from p2pchain.errors import NotReady
from p2pchain.node.chain.service import ChainService
from p2pchain.node.money.treasury import Request, Treasury
from primitives.errors import P2PChainError
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN, ShardId
from wallet.book import PayerBook
from wallet.errors import InsufficientFunds
from wallet.payer import PayerChannel

log = logging.getLogger(__name__)

MIN_DEPOSIT = ATOMS_PER_COIN // 20
"""Fifty answers of the bundled model; opening a channel costs a fee each time."""
DEPOSIT_SESSIONS = 4
"""Longest sessions that a new deposit covers, if the wallet can afford it."""
UNITS_PER_STEP = 8
"""A unit is at most an eighth of a decode step, so rounding up costs little."""
MAX_ROUNDS = 3
"""Of filling channels that others empty meanwhile; each takes a few blocks."""
FLUSH_S = 1.0
"""What a power cut can make us forget of our payments."""
WITHDRAW_S = 30.0
"""Between looks for channels whose grace window is over; it lasts a quarter hour."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a session may take at most from a provider."""

    registration: Registration
    prompt_tokens: int
    max_tokens: int

    def compute_cost(self, unit_price: int) -> int:
        """Return it in atoms, each step rounded up to units."""
        offer = self.registration
        full, rest = divmod(self.prompt_tokens, PREFILL_TOKENS)
        steps = full + (rest > 0) + self.max_tokens
        # No visit costs less than an output token (inference/protocol/steps.py).
        price = full * max(PREFILL_TOKENS * offer.input_price, offer.output_price)
        price += max(rest * offer.input_price, offer.output_price) if rest else 0
        price += self.max_tokens * offer.output_price
        # Guesses save what they cost, but for the first ones (`FREE_GUESSES`).
        price += FREE_GUESSES * offer.input_price if self.max_tokens else 0
        return price * (offer.end - offer.start) + steps * unit_price


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
        self._filling = trio.Lock()
        self._reserved: dict[bytes, int] = {}
        """Atoms that open sessions may still take, by channel."""

    def get_promised(self, channel_id: bytes) -> int:
        """Return the atoms paid off chain over a channel of ours."""
        if channel_id not in self._book:
            return 0
        return self._book.get(channel_id).paid_total

    def get_reserved(self, channel_id: bytes) -> int:
        """Return the atoms that open sessions may still take of a channel of ours."""
        return self._reserved.get(channel_id, 0)

    async def run(self) -> None:
        """Keep the book safe from power cuts, and end what is closing."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._withdraw)
            while True:
                await trio.sleep(FLUSH_S)
                self.flush()

    def flush(self) -> None:
        """Make the book safe from a power cut."""
        self._book.flush()

    async def fill(self, needs: Sequence[Need]) -> None:
        """Bring the channels to what sessions need; waits for the chain if it must.

        Raises:
            InsufficientFunds: All shards together hold too little.
            TransactionFailed, NotReady: The chain refused, or is not ready.
        """
        if not self._plan(needs, _be_generous):
            return
        async with self._filling:
            for _ in range(MAX_ROUNDS):
                requests = self._plan(needs, _be_generous)
                if not requests:
                    return
                try:
                    await self._treasury.execute_all(requests)
                except InsufficientFunds:
                    await self._treasury.execute_all(self._plan(needs, _be_frugal))
        raise NotReady("other sessions empty the channels; try again in a moment")

    @contextmanager
    def reserve(self, needs: Sequence[Need]) -> Iterator[tuple[Channel, ...]]:
        """Hold what sessions need for them; yields the channels, ready to pay.

        To be entered right after `fill`, without anything between.

        Raises:
            NotReady: A channel is not there, or not ours to pay from.
        """
        channels = tuple(self._enter(need.registration) for need in needs)
        costs = [
            need.compute_cost(channel.unit_price)
            for need, channel in zip(needs, channels, strict=True)
        ]
        for channel, cost in zip(channels, costs, strict=True):
            reserved = self.get_reserved(channel.channel_id)
            self._reserved[channel.channel_id] = reserved + cost
        try:
            yield channels
        finally:
            for channel, cost in zip(channels, costs, strict=True):
                left = self.get_reserved(channel.channel_id) - cost
                self._reserved[channel.channel_id] = left
                if not left:
                    del self._reserved[channel.channel_id]

    def find(self, registration: Registration) -> Channel | None:
        """Return our open channel to a provider, as the chain shows it."""
        return self._chain.queries.market.find_channel(
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

    # Filling

    def _plan(
        self, needs: Sequence[Need], choose_deposit: Callable[[int, int], int]
    ) -> list[Request]:
        """Return what to run on chain; openings of one shard go in batches."""
        openings: dict[ShardId, list[Opening]] = {}
        requests: list[Request] = []
        for need in needs:
            registration = need.registration
            channel = self.find(registration)
            if channel is None:
                cost = need.compute_cost(compute_unit_price(registration))
                opening = self.build_opening(registration, choose_deposit(cost, cost))
                openings.setdefault(registration.home, []).append(opening)
                continue
            cost = need.compute_cost(channel.unit_price)
            missing = cost - self._compute_free(channel)
            # A pending close is cancelled by a top-up, too.
            if missing > 0 or channel.status is ChannelStatus.CLOSING:
                amount = choose_deposit(cost, max(1, missing))
                requests.append(
                    (channel.shard, TopUp(channel.channel_id, amount), amount)
                )
        for shard, batch in openings.items():
            for part in _cut(batch, MAX_OPENINGS):
                amount = sum(opening.deposit for opening in part)
                requests.append((shard, OpenChannels(tuple(part)), amount))
        return requests

    def _compute_free(self, channel: Channel) -> int:
        """Return the atoms that no payment and no open session has taken."""
        spent = max(channel.settled, self.get_promised(channel.channel_id))
        return channel.deposit - spent - self.get_reserved(channel.channel_id)

    # The book

    def _enter(self, registration: Registration) -> Channel:
        """Take a channel into the book as the chain shows it now."""
        channel = self.find(registration)
        if channel is None:
            raise NotReady("the channel is not open yet; try again in a moment")
        if channel.signer != self._session_key.public_key:
            raise NotReady(
                f"channel 0x{channel.channel_id.hex()} was opened with another key "
                "than this node's; close it first"
            )
        self._forget_closed(channel)
        if self.get_promised(channel.channel_id) < channel.settled:
            # Our book is older than the chain: it was lost, or its keys are restored.
            self._book.remove(channel.channel_id)
        chain_id = self._chain.chain_id
        self._book.add(PayerChannel.from_channel(chain_id, channel, self._session_key))
        return channel

    def _forget_closed(self, channel: Channel) -> None:
        """Drop the channels to the same payee that came before this one."""
        for entry in self._book:
            state = entry.state
            if (state.payee, state.shard) != (channel.payee, channel.shard):
                continue
            if state.channel_id != channel.channel_id:
                self._book.remove(state.channel_id)

    # Ending

    async def _withdraw(self) -> None:
        while True:
            for channel in self._list_ripe():
                name = channel.channel_id.hex()[:8]
                try:
                    await self._treasury.execute(
                        channel.shard, Withdraw(channel.channel_id)
                    )
                except P2PChainError as error:
                    log.warning("channel %s is not withdrawn yet: %s", name, error)
                else:
                    log.info("withdrew the rest of channel %s", name)
            await trio.sleep(WITHDRAW_S)

    def _list_ripe(self) -> list[Channel]:
        """Return our channels whose grace window is over."""
        address, found, after = self._treasury.address, [], None
        while True:
            page = self._chain.queries.market.list_channels(
                address, after, MAX_PAGE, is_open=True
            )
            found += [each for each in page.items if self.is_ripe(each)]
            after = page.next
            if after is None:
                return found

    def is_ripe(self, channel: Channel) -> bool:
        """Tell whether we may take what is left in a channel."""
        return (
            channel.payer == self._treasury.address
            and channel.status is ChannelStatus.CLOSING
            and channel.close_height <= self._chain.height
        )


def compute_unit_price(registration: Registration) -> int:
    """Return the unit for a new channel to a provider, in atoms, rounded down."""
    layers = registration.end - registration.start
    return max(1, registration.output_price * layers // UNITS_PER_STEP)


def _be_generous(cost: int, missing: int) -> int:
    """Return a deposit for several sessions like the one that costs `cost`."""
    return max(MIN_DEPOSIT, DEPOSIT_SESSIONS * cost, missing)


def _be_frugal(cost: int, missing: int) -> int:
    """Return a deposit for this session alone."""
    return missing


def _cut(openings: Sequence[Opening], size: int) -> Iterable[Sequence[Opening]]:
    for start in range(0, len(openings), size):
        yield openings[start : start + size]

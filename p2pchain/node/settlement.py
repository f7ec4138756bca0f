"""
Cashing what customers have paid: one SETTLE per channel that has something new.

After a session has ended we wait a moment, because another may follow, and then settle
the best claim together with the record of all work that it pays for.  The chain pays
nothing beyond that record, so a claim that runs ahead of delivered work waits for it.
A channel that its payer wants to close is settled at once, like every other one; the
grace window is hundreds of blocks long.
"""

import logging

import trio

from chain.contracts.channel import (
    Channel,
    ChannelStatus,
    Claim,
    Settle,
    compute_total,
)
from chain.contracts.proof import WorkRecord
from inference.session_account import SessionAccount, build_work_record
from p2pchain.node.chain_service import ChainService
from p2pchain.node.provider_book import ProviderBook
from p2pchain.node.treasury import Treasury
from primitives.errors import P2PChainError

log = logging.getLogger(__name__)

DELAY_S = 0.5
"""After the last session's end: long enough for its last payment, which may follow it,
short enough that whoever watches sees the settlement in one of the next blocks."""
RETRY_BLOCKS = 5
"""Between attempts, while something hinders a settlement."""


class Settlement:
    """Settles this provider's channels; `notice` wakes it."""

    def __init__(self, chain: ChainService, treasury: Treasury) -> None:
        self._chain = chain
        self._treasury = treasury
        self._news = trio.Event()

    def notice(self) -> None:
        """Say that there may be something to settle."""
        self._news.set()

    async def run(self, book: ProviderBook) -> None:
        """Settle whatever there is, until cancelled."""
        await self._settle_all(book)  # what a stop or a crash left
        while True:
            with trio.move_on_after(RETRY_BLOCKS):
                await self._news.wait()
            await trio.sleep(DELAY_S)
            self._news = trio.Event()
            await self._settle_all(book)

    async def _settle_all(self, book: ProviderBook) -> None:
        for entry in book.list_channels():
            channel = self._chain.queries.get_channel(entry.channel_id)
            if channel is None:
                continue
            if channel.status is ChannelStatus.CLOSED:
                book.forget_channel(entry.channel_id)
                continue
            sessions = book.load_sessions(entry.channel_id)
            if entry.claim is None or not sessions:
                continue
            try:
                await self._settle(book, channel, entry.claim, sessions)
            except P2PChainError as error:
                log.warning("channel %s: %s", channel.channel_id.hex()[:8], error)

    async def _settle(
        self,
        book: ProviderBook,
        channel: Channel,
        claim: Claim,
        sessions: list[SessionAccount],
    ) -> None:
        total = compute_total(claim)
        work = build_work_record(sessions)
        if self._is_posted(channel, work):
            # A crash came between the block and our note of it.
            book.forget_sessions(sessions)
            return
        if not channel.settled < total <= channel.worked + work.price_sum:
            return
        settle = Settle(channel.channel_id, claim, work)
        await self._treasury.execute(channel.shard, settle)
        book.forget_sessions(sessions)
        log.info(
            "settled %d atoms of channel %s",
            total - channel.settled,
            channel.channel_id.hex()[:8],
        )

    def _is_posted(self, channel: Channel, work: WorkRecord) -> bool:
        recent = self._chain.queries.list_work(payee=channel.payee).items
        return any(
            found.entry.channel_id == channel.channel_id
            and found.entry.work.work_root == work.work_root
            for found in recent
        )

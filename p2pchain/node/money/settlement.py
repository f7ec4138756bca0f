"""
Cashing what customers have paid: one SETTLE per channel that has something new.

After a session has ended we wait a moment, because another may follow, and then settle
the best claim together with the record of all work that it pays for, all channels in
one block.  A settlement that would bring in less than its fee waits for more.

    due --note it--> SETTLING --final--> sessions forgotten, with the note
     ^                  |
     +--refused, or above its last height--

The note is on disk before the transaction leaves, and while it is there nothing else is
settled on the channel: so work is never posted twice, whatever a crash comes between.

A channel that its payer wants to close is settled at once, like every other one; the
grace window is hundreds of blocks long.
"""

import logging
from dataclasses import dataclass

import trio

from chain.records.channel import Channel, ChannelStatus, Settle, compute_total
from p2pchain.node.chain.service import ChainService
from p2pchain.node.money.cashing import plan_cashing
from p2pchain.node.money.provider_book import ProviderBook, Settling
from p2pchain.node.money.treasury import Treasury
from primitives.errors import P2PChainError
from primitives.types import ShardId
from wallet.transactions import DEFAULT_LIFETIME_BLOCKS, estimate_fee

log = logging.getLogger(__name__)

DELAY_S = 0.5
"""After the last session's end: long enough for its last payment, which may follow it,
short enough that whoever watches sees the settlement in one of the next blocks."""
RETRY_S = 5.0
"""Between looks at what hindered a settlement, or at what became of one."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A settlement to make."""

    channel: Channel
    settle: Settle
    total: int
    """Atoms paid in all once it is final."""
    sessions: tuple[bytes, ...]
    """Whose work it posts."""

    def build_settling(self, height: int) -> Settling:
        """Return the note of it for a transaction that is signed at `height`."""
        return Settling(
            channel_id=self.channel.channel_id,
            total=self.total,
            sessions=self.sessions,
            last_height=height + DEFAULT_LIFETIME_BLOCKS,
        )


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
        while True:
            self._news = trio.Event()
            await self._settle_all(book)
            with trio.move_on_after(RETRY_S):
                await self._news.wait()
            await trio.sleep(DELAY_S)

    async def _settle_all(self, book: ProviderBook) -> None:
        dues = self._list_due(book)
        if not dues:
            return
        notes: list[Settling] = []

        def begin() -> None:
            notes.extend(due.build_settling(self._chain.height) for due in dues)
            book.begin_settling(notes)

        requests = [(due.channel.shard, due.settle, 0) for due in dues]
        try:
            outcomes = await self._treasury.run_all(requests, begin)
        except P2PChainError as error:
            # Some may be on their way; where notes were made, they say until when.
            log.warning("not settled yet: %s", error)
            return
        for due, note, outcome in zip(dues, notes, outcomes, strict=True):
            name = due.channel.channel_id.hex()[:8]
            if outcome.ok:
                book.finish_settling(note)
                gain = due.total - due.channel.settled
                log.info("settled %d atoms of channel %s", gain, name)
            else:
                book.give_up_settling(note)
                log.warning("channel %s: %s", name, outcome.message)

    def _list_due(self, book: ProviderBook) -> list[_Due]:
        dues = []
        for entry in book.list_channels():
            channel = self._chain.queries.market.get_channel(entry.channel_id)
            if channel is None:
                continue
            if channel.status is ChannelStatus.CLOSED:
                book.forget_channel(entry.channel_id)
                continue
            if self._is_settling(book, channel) or not self._is_open(channel.shard):
                continue
            due = self._build_due(book, channel)
            if due is not None:
                dues.append(due)
        return dues

    def _is_open(self, shard: ShardId) -> bool:
        """Tell whether a shard takes transactions; one that is emptied does not."""
        return shard in self._chain.queries.layouts.list_open_shards()

    def _is_settling(self, book: ProviderBook, channel: Channel) -> bool:
        """Tell whether a settlement is on its way; close the books of one that was."""
        settling = book.get_settling(channel.channel_id)
        if settling is None:
            return False
        if channel.settled >= settling.total:
            book.finish_settling(settling)
            return False
        if self._chain.height <= settling.last_height:
            return True
        book.give_up_settling(settling)
        return False

    def _build_due(self, book: ProviderBook, channel: Channel) -> _Due | None:
        claim = book.get_claim(channel.channel_id)
        if claim is None or compute_total(claim) <= channel.settled:
            return None
        sessions = book.load_sessions(channel.channel_id)
        cashing = plan_cashing(channel, claim, sessions)
        if cashing is None:
            return None
        settle = Settle(channel.channel_id, cashing.claim, cashing.work)
        total = compute_total(cashing.claim)
        if total - channel.settled <= estimate_fee(self._chain.spec.params, settle):
            return None
        return _Due(channel, settle, total, tuple(each.session for each in sessions))

"""
What a provider keeps of its customers: claims, deliveries and unsettled work.

It joins three sources behind the `Payee` port of inference/hop_ports.py: the channel
as the chain shows it, the best claim (wallet/book.py), and what was delivered.

    book/payee/     best claim per channel                  (wallet.book)
    book/standing/  what was delivered on a channel         (Standing)
    book/session/   finished sessions, until settled        (SessionAccount)

Everything is written before the answer that it is about leaves the node, so that a
killed process forgets nothing; `flush`, once a second, makes it safe from a power cut.
"""

from collections.abc import Callable, Iterator

from chain.contracts.channel import Channel, ChannelStatus, Claim, Close, Payment
from inference.channel_account import EMPTY_STANDING, Standing
from inference.hop_ports import PayeeChannel as ChannelView
from inference.session_account import SessionAccount, build_work_record
from primitives.codec import decode, encode
from primitives.kv import KeyValueStore
from wallet.book import PayeeBook
from wallet.payee import PayeeChannel

STANDING_PREFIX = b"book/standing/"
SESSION_PREFIX = b"book/session/"


class ProviderBook:
    """The provider's channels; implements `inference.hop_ports.Payee`."""

    def __init__(
        self,
        kv: KeyValueStore,
        chain_id: bytes,
        account: bytes,
        find_channel: Callable[[bytes], Channel | None],
        on_work: Callable[[], None],
    ) -> None:
        """
        Args:
            kv: The node's database.
            chain_id: Of this chain.
            account: Ours; channels that pay others are none of our business.
            find_channel: Reads a channel from the final state.
            on_work: Called when there is something new to settle.
        """
        self._kv = kv
        self._chain_id = chain_id
        self._account = account
        self._find_channel = find_channel
        self._on_work = on_work
        self._book = PayeeBook(kv)
        self._unsynced: dict[bytes, bytes | None] = {}

    # The port of inference

    def get_channel(self, channel_id: bytes) -> ChannelView | None:
        """Return a channel that pays us, or None."""
        channel = self._find_channel(channel_id)
        if channel is None or channel.payee != self._account:
            return None
        self._book.add(PayeeChannel.from_channel(self._chain_id, channel))
        entry = self._book.get(channel_id)
        data = self._kv.get(STANDING_PREFIX + channel_id)
        return ChannelView(
            payer=channel.payer,
            signer=channel.signer,
            unit_price=channel.unit_price,
            remaining_units=(channel.deposit - entry.total) // channel.unit_price,
            paid_units=entry.total // channel.unit_price,
            standing=EMPTY_STANDING if data is None else decode(Standing, data),
            is_open=channel.status is ChannelStatus.OPEN,
        )

    def accept_payment(self, channel_id: bytes, payment: Payment) -> int:
        """Check and write down a payment; returns the units that it brings."""
        return self._book.accept(channel_id, payment)

    def save_standing(self, channel_id: bytes, standing: Standing) -> None:
        """Write down what was delivered on a channel."""
        self._write(STANDING_PREFIX + channel_id, encode(standing))

    def on_session_closed(self, account: SessionAccount) -> None:
        """Keep a session's receipts until they are settled."""
        if account.receipts:
            self._write(_build_session_key(account), encode(account))
            self._on_work()

    # What settling needs

    def list_channels(self) -> tuple[PayeeChannel, ...]:
        """Return every channel that has paid or may pay us."""
        return tuple(self._book)

    def get_claim(self, channel_id: bytes) -> Claim | None:
        """Return the best claim on a channel."""
        return self._book.get(channel_id).claim

    def get_total(self, channel_id: bytes) -> int:
        """Return the atoms that the best claim is worth in all."""
        return self._book.get(channel_id).total if channel_id in self._book else 0

    def build_close(self, channel: Channel) -> Close:
        """Return what ends a channel that pays us, with our best claim in it."""
        claim = (
            self.get_claim(channel.channel_id)
            if self.get_total(channel.channel_id) > channel.settled
            else None
        )
        sessions = self.load_sessions(channel.channel_id)
        if claim is None or not sessions:
            return Close(channel.channel_id, None, None)
        return Close(channel.channel_id, claim, build_work_record(sessions))

    def load_sessions(self, channel_id: bytes) -> list[SessionAccount]:
        """Return the channel's unsettled sessions."""
        return [account for _, account in self._iterate_sessions(channel_id)]

    def forget_sessions(self, accounts: list[SessionAccount]) -> None:
        """Drop sessions whose settlement is final."""
        keys: dict[bytes, bytes | None] = dict.fromkeys(
            map(_build_session_key, accounts)
        )
        for key in keys:
            self._unsynced.pop(key, None)
        self._kv.write(keys, sync=True)

    def forget_channel(self, channel_id: bytes) -> None:
        """Drop everything about a channel that the chain has closed."""
        keys = [key for key, _ in self._iterate_sessions(channel_id)]
        self._kv.write(dict.fromkeys([STANDING_PREFIX + channel_id, *keys]), sync=True)
        for key in [STANDING_PREFIX + channel_id, *keys]:
            self._unsynced.pop(key, None)
        self._book.remove(channel_id)

    def flush(self) -> None:
        """Make everything written so far safe from a power cut."""
        self._book.flush()
        if self._unsynced:
            self._kv.write(self._unsynced, sync=True)
            self._unsynced.clear()

    def _write(self, key: bytes, data: bytes) -> None:
        self._kv.write({key: data}, sync=False)
        self._unsynced[key] = data

    def _iterate_sessions(
        self, channel_id: bytes
    ) -> Iterator[tuple[bytes, SessionAccount]]:
        for key, data in self._kv.iterate(SESSION_PREFIX + channel_id):
            yield key, decode(SessionAccount, data)


def _build_session_key(account: SessionAccount) -> bytes:
    return SESSION_PREFIX + account.channel_id + account.session

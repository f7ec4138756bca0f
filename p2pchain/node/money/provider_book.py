"""
What a provider keeps of its customers: claims, deliveries and unsettled work.

It joins three sources behind the `Payee` port of inference/hop/ports.py: the channel
as the chain shows it, the best claim (wallet/book.py), and what was delivered.

    book/payee/     best claim per channel                  (wallet.book)
    book/standing/  what was delivered on a channel         (Standing)
    book/receipt/   receipts of sessions that are open      (Receipt)
    book/session/   finished sessions, until settled        (SessionAccount)
    book/settling/  what a settlement on its way is about   (Settling)

The standing and the claim are written before the answer that they are about leaves the
node, so that a killed process forgets nothing; `flush`, once a second, makes them safe
from a power cut.  A session that a crash cut off is put together again from its
receipts: they say what the chain pays for.
"""

from collections.abc import Callable, Iterator, Sequence

from chain.records.channel import Channel, ChannelStatus, Claim, Close, Payment
from chain.records.proof import Receipt
from inference.hop.channel_account import EMPTY_STANDING, Standing
from inference.hop.ports import PayeeChannel as ChannelView
from inference.protocol.account import SessionAccount
from p2pchain.node.money.cashing import plan_cashing, recover_session
from primitives.codec import Record, decode, encode
from primitives.kv import KeyValueStore
from primitives.types import Amount, Hash32, Height
from wallet.book import PayeeBook
from wallet.payee import PayeeChannel

STANDING_PREFIX = b"book/standing/"
RECEIPT_PREFIX = b"book/receipt/"
SESSION_PREFIX = b"book/session/"
SETTLING_PREFIX = b"book/settling/"


class Settling(Record):
    """A settlement that was sent and of which we do not know what became."""

    channel_id: Hash32
    total: Amount
    """Atoms that the channel has paid in all once it is final."""
    sessions: tuple[Hash32, ...]
    """Whose work it posts."""
    last_height: Height
    """It cannot become final above this."""


class ProviderBook:
    """The provider's channels; implements `inference.hop.ports.Payee`."""

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
        self._recover_sessions()

    # The port of inference

    def get_channel(self, channel_id: bytes) -> ChannelView | None:
        """Return an open channel that pays us, or None."""
        channel = self._find_channel(channel_id)
        if channel is None or channel.payee != self._account:
            return None
        if channel.status is ChannelStatus.CLOSED:
            # Anybody can name one; what is over gets no place in the book.
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
        self._write({STANDING_PREFIX + channel_id: encode(standing)})

    def on_session_closed(self, account: SessionAccount) -> None:
        """Keep a session's receipts until they are settled."""
        if account.receipts:
            self._file(account)
            self._on_work()

    def keep_receipt(self, receipt: Receipt) -> None:
        """Keep a receipt of an open session, in case that we do not see its end."""
        self._write({_build_receipt_key(receipt): encode(receipt)})

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
            if channel.channel_id in self._book
            else None
        )
        sessions = self.load_sessions(channel.channel_id)
        cashing = None if claim is None else plan_cashing(channel, claim, sessions)
        if cashing is None:
            return Close(channel.channel_id, None, None)
        return Close(channel.channel_id, cashing.claim, cashing.work)

    def load_sessions(self, channel_id: bytes) -> list[SessionAccount]:
        """Return the channel's unsettled sessions."""
        return [account for _, account in self._iterate_sessions(channel_id)]

    # A settlement on its way

    def get_settling(self, channel_id: bytes) -> Settling | None:
        """Return the settlement that was sent last, while its end is not known."""
        data = self._kv.get(SETTLING_PREFIX + channel_id)
        return None if data is None else decode(Settling, data)

    def begin_settling(self, settling: Sequence[Settling]) -> None:
        """Note settlements before they are sent."""
        self._kv.write(
            {SETTLING_PREFIX + each.channel_id: encode(each) for each in settling},
            sync=True,
        )

    def finish_settling(self, settling: Settling) -> None:
        """Drop the sessions of a settlement that is final."""
        sessions = [
            SESSION_PREFIX + settling.channel_id + session
            for session in settling.sessions
        ]
        self._delete([SETTLING_PREFIX + settling.channel_id, *sessions])

    def give_up_settling(self, settling: Settling) -> None:
        """Note that a settlement has failed; its sessions wait for the next one."""
        self._delete([SETTLING_PREFIX + settling.channel_id])

    def forget_channel(self, channel_id: bytes) -> None:
        """Drop everything about a channel that the chain has closed."""
        self._delete(
            [
                STANDING_PREFIX + channel_id,
                SETTLING_PREFIX + channel_id,
                *(key for key, _ in self._iterate_sessions(channel_id)),
                *(key for key, _ in self._kv.iterate(RECEIPT_PREFIX + channel_id)),
            ]
        )
        self._book.remove(channel_id)

    def flush(self) -> None:
        """Make everything written so far safe from a power cut."""
        self._book.flush()
        if self._unsynced:
            self._kv.write(self._unsynced, sync=True)
            self._unsynced.clear()

    # Inside

    def _file(self, account: SessionAccount) -> None:
        """Put an ended session in the place of its receipts."""
        prefix = RECEIPT_PREFIX + account.channel_id + account.session
        changes: dict[bytes, bytes | None] = {
            key: None for key, _ in self._kv.iterate(prefix)
        }
        changes[_build_session_key(account)] = encode(account)
        self._write(changes)

    def _recover_sessions(self) -> None:
        """File the sessions whose end we did not see."""
        found: dict[tuple[bytes, bytes], list[Receipt]] = {}
        for _, data in self._kv.iterate(RECEIPT_PREFIX):
            receipt = decode(Receipt, data)
            place = receipt.channel_id, receipt.session
            found.setdefault(place, []).append(receipt)
        for (channel_id, _), receipts in found.items():
            channel = self._find_channel(channel_id)
            if channel is None or channel.status is ChannelStatus.CLOSED:
                keys = [_build_receipt_key(receipt) for receipt in receipts]
                self._delete(keys)
            else:
                self._file(recover_session(receipts, channel.unit_price))

    def _write(self, changes: dict[bytes, bytes | None]) -> None:
        self._kv.write(changes, sync=False)
        self._unsynced.update(changes)

    def _delete(self, keys: list[bytes]) -> None:
        for key in keys:
            self._unsynced.pop(key, None)
        self._kv.write(dict.fromkeys(keys), sync=True)

    def _iterate_sessions(
        self, channel_id: bytes
    ) -> Iterator[tuple[bytes, SessionAccount]]:
        for key, data in self._kv.iterate(SESSION_PREFIX + channel_id):
            yield key, decode(SessionAccount, data)


def _build_session_key(account: SessionAccount) -> bytes:
    return SESSION_PREFIX + account.channel_id + account.session


def _build_receipt_key(receipt: Receipt) -> bytes:
    nonce = receipt.nonce.to_bytes(8, "big")
    return RECEIPT_PREFIX + receipt.channel_id + receipt.session + nonce

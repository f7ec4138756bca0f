"""
Books: what must survive a crash, one entry per channel.

The order of things is the rule of both books: compute, store, and only then use.  A
payee that serves a step has the claim for it on disk; a payer that sends a payment has
on disk that it was sent.  So a killed process loses no step it was paid for and
pays at most one step twice.

Each payment is written at once and synced to the disk with each new voucher and on
`flush`, which the node calls every second: syncing each step would cost milliseconds
per token.  A power cut so costs a payee at most that second, which the payer's next
payment brings back (it skips forward), and leaves a payer behind at most that second,
which the payee's claim brings back (`PayerBook.advance_to`).

A payment may be lost on the way with its voucher in it.  The next one over the same
chain would mean nothing to the payee, so after a restart, and whenever the node begins
a new connection (`PayerBook.repeat_voucher`), the first payment carries the voucher
again; the payee recognises one it has and checks no signature twice.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from chain.records.channel import Claim, Payment
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError, LocalError
from primitives.keys import SecretKey
from primitives.kv import KeyValueStore
from wallet.errors import UnknownChannel
from wallet.payee import PayeeChannel
from wallet.payer import PayerChannel, PayerState

T = TypeVar("T", bound=Record)

PAYEE_PREFIX = b"book/payee/"
PAYER_PREFIX = b"book/payer/"


class CorruptBook(LocalError):
    """An entry of the book is not what we wrote."""


class _Shelf(Generic[T]):
    """Records by channel id under one prefix of a store, with the unsynced ones."""

    def __init__(self, store: KeyValueStore, prefix: bytes, kind: type[T]) -> None:
        self._store = store
        self._prefix = prefix
        self._kind = kind
        self._unsynced: dict[bytes, bytes] = {}

    def load(self) -> Iterator[T]:
        for key, data in self._store.iterate(self._prefix):
            try:
                yield decode(self._kind, data)
            except DecodeError as error:
                raise CorruptBook(f"entry {key.hex()}: {error}") from error

    def save(self, channel_id: bytes, record: T, *, sync: bool) -> None:
        key, data = self._prefix + channel_id, encode(record)
        if sync:
            # The unsynced ones come along: a store that has begun another log file
            # since may sync this entry without those.
            self._store.write({**self._unsynced, key: data}, sync=True)
            self._unsynced.clear()
        else:
            self._store.write({key: data}, sync=False)
            self._unsynced[key] = data

    def remove(self, channel_id: bytes) -> None:
        key = self._prefix + channel_id
        self._store.write({**self._unsynced, key: None}, sync=True)
        self._unsynced.clear()

    def flush(self) -> None:
        if self._unsynced:
            self._store.write(self._unsynced, sync=True)
            self._unsynced.clear()


class PayeeBook:
    """The best claim on every channel that pays us."""

    def __init__(self, store: KeyValueStore) -> None:
        self._shelf = _Shelf(store, PAYEE_PREFIX, PayeeChannel)
        self._channels = {entry.channel_id: entry for entry in self._shelf.load()}

    def __iter__(self) -> Iterator[PayeeChannel]:
        return iter(tuple(self._channels.values()))

    def __contains__(self, channel_id: bytes) -> bool:
        return channel_id in self._channels

    def get(self, channel_id: bytes) -> PayeeChannel:
        """Return the channel.

        Raises:
            UnknownChannel: Not in the book.
        """
        try:
            return self._channels[channel_id]
        except KeyError:
            raise UnknownChannel(channel_id) from None

    def add(self, channel: PayeeChannel) -> None:
        """Enter a channel that the chain opened; one that is known keeps its claim."""
        if channel.channel_id in self._channels:
            self.set_deposit(channel.channel_id, channel.deposit)
        else:
            self._save(channel, sync=True)

    def accept(self, channel_id: bytes, payment: Payment) -> int:
        """Store the payment and return the units that it newly pays.

        Raises:
            UnknownChannel: Not in the book.
            InvalidPayment: It pays nothing; the book is as before.
        """
        channel, units = self.get(channel_id).accept(payment)
        self._save(channel, sync=payment.voucher is not None)
        return units

    def set_deposit(self, channel_id: bytes, deposit: int) -> None:
        """Note a top-up that became final."""
        channel = self.get(channel_id)
        if channel.deposit != deposit:
            self._save(channel.set_deposit(deposit), sync=True)

    def remove(self, channel_id: bytes) -> None:
        """Forget a channel that is closed for good."""
        self._channels.pop(channel_id, None)
        self._shelf.remove(channel_id)

    def flush(self) -> None:
        """Make everything accepted so far safe from a power cut."""
        self._shelf.flush()

    def _save(self, channel: PayeeChannel, *, sync: bool) -> None:
        self._shelf.save(channel.channel_id, channel, sync=sync)
        self._channels[channel.channel_id] = channel


class PayerBook:
    """What was paid over every channel of ours; signs with one session key."""

    def __init__(self, store: KeyValueStore, signer: SecretKey) -> None:
        self._signer = signer
        self._shelf = _Shelf(store, PAYER_PREFIX, PayerState)
        self._channels = {
            state.channel_id: PayerChannel.from_state(state, signer)
            for state in self._shelf.load()
        }
        self._unconfirmed = set(self._channels)
        """Channels whose newest voucher may not have arrived."""

    def __iter__(self) -> Iterator[PayerChannel]:
        return iter(tuple(self._channels.values()))

    def __contains__(self, channel_id: bytes) -> bool:
        return channel_id in self._channels

    @property
    def session_key(self) -> bytes:
        """Public key that openings name as their signer."""
        return self._signer.public_key

    def get(self, channel_id: bytes) -> PayerChannel:
        """Return the channel.

        Raises:
            UnknownChannel: Not in the book.
        """
        try:
            return self._channels[channel_id]
        except KeyError:
            raise UnknownChannel(channel_id) from None

    def add(self, channel: PayerChannel) -> None:
        """Enter a channel that the chain opened; one that is known keeps its state."""
        channel_id = channel.state.channel_id
        if channel_id in self._channels:
            self.set_deposit(channel_id, channel.state.deposit)
        else:
            self._save(channel, sync=True)

    def pay(self, channel_id: bytes, units: int) -> Payment:
        """Pay `units` more and return what to hand to the payee, stored before.

        Raises:
            UnknownChannel: Not in the book.
            DepositExhausted: The deposit does not pay that many any more.
        """
        repeat = channel_id in self._unconfirmed
        channel, payment = self.get(channel_id).pay(units, repeat_voucher=repeat)
        self._save(channel, sync=payment.voucher is not None)
        self._unconfirmed.discard(channel_id)
        return payment

    def repeat_voucher(self, channel_id: bytes) -> None:
        """Let the next payment carry the voucher again: the last may be lost."""
        self._unconfirmed.add(channel_id)

    def advance_to(self, channel_id: bytes, claim: Claim) -> None:
        """Catch up with what the payee proves that it was paid.

        Raises:
            UnknownChannel: Not in the book.
            InvalidClaim: We never made this claim.
        """
        channel = self.get(channel_id)
        advanced = channel.advance_to(claim)
        if advanced is not channel:
            self._save(advanced, sync=True)

    def set_deposit(self, channel_id: bytes, deposit: int) -> None:
        """Note a top-up that became final."""
        channel = self.get(channel_id)
        if channel.state.deposit != deposit:
            self._save(channel.set_deposit(deposit), sync=True)

    def remove(self, channel_id: bytes) -> None:
        """Forget a channel that is closed for good."""
        self._channels.pop(channel_id, None)
        self._unconfirmed.discard(channel_id)
        self._shelf.remove(channel_id)

    def flush(self) -> None:
        """Make everything paid so far safe from a power cut."""
        self._shelf.flush()

    def _save(self, channel: PayerChannel, *, sync: bool) -> None:
        self._shelf.save(channel.state.channel_id, channel.state, sync=sync)
        self._channels[channel.state.channel_id] = channel

"""
The ledger: how a rule sees its shard.

Theory of operation
-------------------
`ShardLedger` buffers writes over a read-only state view.  A transaction runs between
`begin` and either `commit` or `rollback`, so a rule that raises leaves nothing behind:
neither writes nor packets nor events.  Records stay decoded in the buffer; bytes are
made once, when the chunk is finished.

Functions that several rules share (accounts, packets, totals) stand below the class.
"""

from collections.abc import Callable
from itertools import islice
from typing import Protocol, TypeVar

from chain.errors import RuleError
from chain.ledger.context import Context
from chain.records.account import (
    NO_ACCOUNT,
    Account,
    compute_ripe,
    compute_with_maturing,
)
from chain.records.channel import Channel
from chain.records.keys import (
    TOTALS_KEY,
    build_account_key,
    build_emitted_key,
)
from chain.records.outcome import Event
from chain.records.proof import WorkEntry
from primitives.codec import Record, decode, encode
from primitives.types import U63, Amount, ShardId
from shards.packet import Packet, PacketKind

R = TypeVar("R", bound=Record)

MAX_AMOUNT = 2**63 - 1

MAX_MINTED = 2**62
"""What a shard can mint at most.  Genesis is smaller too, so that no sum of amounts
ever leaves 63 bits; at a coin per second it lasts 146 years."""

Archived = Channel | WorkEntry
"""Records for histories: what the state forgets or overwrites."""


class Totals(Record):
    """A shard's books: what came into being here and what was destroyed."""

    genesis: Amount
    minted: Amount
    burned: Amount


class Count(Record):
    """A counter in the state."""

    value: U63


class Ledger(Protocol):
    """What a rule may do to its shard."""

    def get(self, key: bytes, kind: type[R]) -> R | None:
        """Return the record under `key`, or None."""

    def put(self, key: bytes, record: Record) -> None:
        """Store a record."""

    def delete(self, key: bytes) -> None:
        """Remove a record."""

    def emit(self, packet: Packet) -> None:
        """Send a packet with the chunk."""

    def note(self, event: Event) -> None:
        """Tell histories what happened."""

    def archive(self, record: Archived) -> None:
        """Hand a record to the histories."""


class ShardLedger:
    """One shard's state during a chunk, with undo for one transaction."""

    def __init__(self, read: Callable[[bytes], bytes | None]) -> None:
        """
        Args:
            read: The state before the chunk: value bytes by key.
        """
        self._read = read
        self._loaded: dict[bytes, Record | None] = {}
        self._written: dict[bytes, Record | None] = {}
        self._frame: dict[bytes, Record | None] = {}
        self._frame_packets: list[Packet] = []
        self._frame_events: list[Event] = []
        self._frame_archive: list[Archived] = []
        self.packets: list[Packet] = []
        """Emitted by everything committed so far."""
        self.archived: list[Archived] = []

    def get(self, key: bytes, kind: type[R]) -> R | None:
        """Return the record under `key`, or None."""
        # Spelled out: rules come here five times per transaction.
        if key in self._frame:
            record = self._frame[key]
        elif key in self._written:
            record = self._written[key]
        elif key in self._loaded:
            record = self._loaded[key]
        else:
            data = self._read(key)
            record = None if data is None else decode(kind, data)
            self._loaded[key] = record
        assert record is None or isinstance(record, kind)
        return record

    def put(self, key: bytes, record: Record) -> None:
        """Store a record until the frame is rolled back."""
        self._frame[key] = record

    def delete(self, key: bytes) -> None:
        """Remove a record until the frame is rolled back."""
        self._frame[key] = None

    def emit(self, packet: Packet) -> None:
        """Send a packet unless the frame is rolled back."""
        self._frame_packets.append(packet)

    def note(self, event: Event) -> None:
        """Report an event unless the frame is rolled back."""
        self._frame_events.append(event)

    def archive(self, record: Archived) -> None:
        """Hand a record to the histories unless the frame is rolled back."""
        self._frame_archive.append(record)

    def commit(self) -> tuple[Event, ...]:
        """Keep what happened since the last commit or rollback; return its events."""
        self._written.update(self._frame)
        self.packets += self._frame_packets
        self.archived += self._frame_archive
        events = tuple(self._frame_events)
        self.rollback()
        return events

    def copy_frame(self) -> dict[bytes, Record | None]:
        """Return what was written since the last commit or rollback."""
        return dict(self._frame)

    def rollback(self, kept: dict[bytes, Record | None] | None = None) -> None:
        """Forget what happened since the last commit or rollback.

        Args:
            kept: Writes that stay all the same; nothing if None.
        """
        self._frame = {} if kept is None else kept
        self._frame_packets = []
        self._frame_events = []
        self._frame_archive = []

    @property
    def loaded_count(self) -> int:
        """How many keys were read from the state so far."""
        return len(self._loaded)

    def list_new_keys(self, count: int) -> list[bytes]:
        """Return keys read after the first `count`, and all written in this frame."""
        return [
            *islice(reversed(self._loaded), len(self._loaded) - count),
            *self._frame,
        ]

    def unload(self, count: int) -> None:
        """Forget all reads after the first `count`."""
        while len(self._loaded) > count:
            self._loaded.popitem()

    def compute_touched(self) -> frozenset[bytes]:
        """Return every key that was read from the state or written."""
        return frozenset(self._loaded.keys() | self._written.keys())

    def compute_writes(self) -> dict[bytes, bytes | None]:
        """Return everything committed as value bytes by key; None deletes."""
        return {
            key: None if record is None else encode(record)
            for key, record in self._written.items()
        }


def get_account(ledger: Ledger, address: bytes, height: int) -> Account:
    """Return an account with everything ripe at `height` in its balance."""
    account = ledger.get(build_account_key(address), Account) or NO_ACCOUNT
    return compute_ripe(account, height)


def credit(ledger: Ledger, context: Context, address: bytes, amount: int) -> None:
    """Add to a balance.

    Raises:
        RuleError: The balance would leave 63 bits; impossible while supply fits.
    """
    account = get_account(ledger, address, context.height)
    if account.balance + amount > MAX_AMOUNT:
        raise RuleError("balance_overflow", "the balance would not fit 63 bits")
    _put_account(
        ledger,
        address,
        Account(account.balance + amount, account.nonce, account.maturing),
    )


def credit_maturing(
    ledger: Ledger, context: Context, address: bytes, amount: int
) -> None:
    """Add to an account's maturing queue."""
    account = get_account(ledger, address, context.height)
    maturity_blocks = context.params.maturity_blocks
    account = compute_with_maturing(account, amount, context.height, maturity_blocks)
    _put_account(ledger, address, account)


def debit(ledger: Ledger, context: Context, address: bytes, amount: int) -> None:
    """Take from a balance.

    Raises:
        RuleError: insufficient_funds.
    """
    account = get_account(ledger, address, context.height)
    if account.balance < amount:
        raise RuleError(
            "insufficient_funds",
            f"balance {account.balance} in shard {context.shard}, {amount} needed",
        )
    _put_account(
        ledger,
        address,
        Account(account.balance - amount, account.nonce, account.maturing),
    )


def charge_fee(ledger: Ledger, context: Context, address: bytes, fee: int) -> None:
    """Burn a transaction's fee and count its nonce; the caller has checked both."""
    account = get_account(ledger, address, context.height)
    assert account.balance >= fee
    _put_account(
        ledger,
        address,
        Account(account.balance - fee, account.nonce + 1, account.maturing),
    )
    burn(ledger, fee)


def burn(ledger: Ledger, amount: int) -> None:
    """Count an amount that belongs to nobody any more."""
    totals = ledger.get(TOTALS_KEY, Totals) or Totals(0, 0, 0)
    burned = Totals(totals.genesis, totals.minted, totals.burned + amount)
    ledger.put(TOTALS_KEY, burned)


def mint(ledger: Ledger, context: Context, address: bytes, amount: int) -> None:
    """Make atoms and add them to a balance.

    Raises:
        RuleError: mint_limit; more than `MAX_MINTED` would have come into being here.
            Nothing was changed.
    """
    totals = ledger.get(TOTALS_KEY, Totals) or Totals(0, 0, 0)
    minted = totals.minted + amount
    if minted > MAX_MINTED:
        raise RuleError("mint_limit", f"{minted} atoms minted, at most {MAX_MINTED}")
    credit(ledger, context, address, amount)
    ledger.put(TOTALS_KEY, Totals(totals.genesis, minted, totals.burned))


def get_count(ledger: Ledger, key: bytes) -> int:
    """Return a counter's value, 0 if it was never written."""
    count = ledger.get(key, Count)
    return 0 if count is None else count.value


def send_packet(
    ledger: Ledger,
    context: Context,
    dst: ShardId,
    kind: PacketKind,
    amount: int,
    payload: Record,
    *,
    is_system: bool = False,
) -> Packet:
    """Emit the next packet to `dst` and return it.

    Args:
        ledger: Of the source shard.
        context: Of the source shard.
        dst: Another shard of the layout.
        kind: What the destination does with it.
        amount: Atoms that travel; the caller has debited them.
        payload: The kind's record.
        is_system: An answer or a bounce: their number is bounded by what was
            consumed, so the backlog limit does not hold for them.

    Raises:
        RuleError: congested; the destination is too far behind.  shard_halted; it
            stands still.
    """
    if not is_system and dst in context.halted:
        raise RuleError("shard_halted", f"shard {dst} is halted")
    key = build_emitted_key(dst)
    seq = get_count(ledger, key)
    backlog = seq - context.consumed.get(dst, 0)
    if not is_system and backlog >= context.params.backlog_limit:
        raise RuleError(
            "congested", f"{backlog} packets wait for shard {dst}, try again later"
        )
    packet = Packet(context.shard, dst, seq, kind, amount, encode(payload))
    ledger.put(key, Count(seq + 1))
    ledger.emit(packet)
    return packet


def _put_account(ledger: Ledger, address: bytes, account: Account) -> None:
    ledger.put(build_account_key(address), account)

"""
Executing one chunk: packets first, then transactions, on one shard's state.

Theory of operation
-------------------
Leader and validators run the same `ChunkRun`.  The leader feeds it candidates and
keeps what fits; a validator feeds it what the chunk holds and refuses the block at
the first thing that does not.  So there is one place where anything happens, and a
leader's own block is never executed twice.

A transaction meets two kinds of "no".  `InvalidTransaction`: it cannot stand in a
block at all (nonce, signature, fee not payable) and nothing is charged.  `RuleError`:
it stands, pays its fee, counts its nonce, and has no other effect.

A packet's effect never fails silently: what cannot be credited bounces, and money
whose owner cannot be read (no rule emits such packets) counts as burned.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from chain.contracts.credit import Bounce, Credit
from chain.contracts.rules import (
    PACKET_RULES,
    PACKET_WORK,
    RULES,
    compute_fee,
    compute_work,
)
from chain.errors import (
    InvalidTransaction,
    RuleError,
)
from chain.execution.envelope import validate_envelope, verify_once
from chain.execution.steps import run_step
from chain.execution.verified import VerifiedCache
from chain.ledger.context import Call, Context
from chain.ledger.ledger import (
    Archived,
    Count,
    ShardLedger,
    burn,
    charge_fee,
    get_count,
    send_packet,
)
from chain.records.keys import (
    build_consumed_key,
    build_emitted_key,
)
from chain.records.outcome import Event, Outcome
from chain.records.transaction import (
    SignedTransaction,
    compute_tx_id,
    decode_transaction,
)
from chain.state.chunk_state import ChunkState
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.types import U32, U63, ShardId
from shards.chunk import Counter
from shards.errors import InvalidPacket
from shards.packet import Packet, PacketKind, PacketProof

FRAMING_BYTES = 3
"""What the encoding of a chunk adds to a transaction of up to 64 KiB."""


class ChunkLimits(Record):
    """What still fits into a chunk."""

    bytes: U32
    work: U63
    transactions: U32
    packets: U32


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """Everything that executing a chunk brought about."""

    transactions: tuple[bytes, ...]
    senders: tuple[bytes, ...]
    """One per transaction."""
    consumed: tuple[PacketProof, ...]
    outcomes: tuple[Outcome, ...]
    """One per transaction."""
    packet_events: tuple[tuple[Event, ...], ...]
    """One group per consumed packet."""
    emitted: tuple[Packet, ...]
    archived: tuple[Archived, ...]
    writes: dict[bytes, bytes | None]
    """The shard's changed keys."""
    in_cursor: tuple[Counter, ...]
    out_count: tuple[Counter, ...]
    fees: int
    work: int
    bytes: int


class ChunkFull(Exception):
    """Something does not fit any more; the leader stops, a validator refuses."""


class Meter(Protocol):
    """Watches how much of the state a chunk touches."""

    def add(self, keys: Iterable[bytes]) -> None:
        """Count keys in that were not counted before.

        Raises:
            ChunkFull: It would be too much; none of them was counted.
        """

    def add_buckets(self, indices: Iterable[int]) -> None:
        """Do the same for whole buckets, by number."""


class ChunkRun:
    """One execution of one chunk."""

    def __init__(
        self,
        context: Context,
        read: Callable[[bytes], bytes | None],
        limits: ChunkLimits,
        verified: VerifiedCache,
        meter: Meter | None = None,
    ) -> None:
        """
        Args:
            context: Of the chunk's shard, at the parent block.
            read: The shard's state at the parent block.
            limits: What the chunk may hold.
            verified: Transactions whose signature was checked before.
            meter: Bounds what the chunk may touch, where its witness matters.

        Raises:
            ChunkFull: The meter takes not even what every chunk touches.
        """
        self._context = context
        self._ledger = ShardLedger(read)
        self._limits = limits
        self._verified = verified
        self._meter = meter
        self._transactions: list[bytes] = []
        self._senders: list[bytes] = []
        self._consumed: list[PacketProof] = []
        self._outcomes: list[Outcome] = []
        self._packet_events: list[tuple[Event, ...]] = []
        self._has_step = False
        self._walked = range(0)
        self.fees = 0
        self.work = 0
        self.bytes = 0
        if meter is not None:
            # What `finish` reads.
            for shard in context.layout.shard_ids:
                meter.add((build_consumed_key(shard), build_emitted_key(shard)))

    @property
    def is_empty(self) -> bool:
        """Nothing was done, consumed or executed, so there is no chunk."""
        return not self._transactions and not self._consumed and not self._has_step

    def begin(self, state: ChunkState) -> None:
        """Do what a change of the layout asks of the shard; comes before anything else.

        Args:
            state: The shard before the chunk.

        Raises:
            ChunkFull: It does not fit.
        """
        mark = self._ledger.loaded_count
        step = run_step(self._ledger, self._context, state)
        self._validate_room(0, step.work)
        if self._meter is not None:
            self._meter.add_buckets(step.buckets)
        self._measure(mark)
        self._ledger.commit()
        self.work += step.work
        self._has_step = step.work > 0
        self._walked = step.buckets

    def get_cursor(self, src: ShardId) -> int:
        """Return the number of the next packet to consume from `src`."""
        return get_count(self._ledger, build_consumed_key(src))

    def consume(self, proof: PacketProof) -> None:
        """Apply the next packet of its source; the caller has verified the proof.

        Raises:
            InvalidPacket: For another shard, or out of order.
            ChunkFull: It does not fit.
        """
        packet = proof.packet
        if packet.dst != self._context.shard:
            raise InvalidPacket(f"packet for shard {packet.dst}")
        expected = self.get_cursor(packet.src)
        if packet.seq != expected:
            raise InvalidPacket(
                f"packet {packet.seq} from shard {packet.src}, {expected} is next"
            )
        if len(self._consumed) >= self._limits.packets:
            raise ChunkFull("packets")
        length = len(encode(proof))
        self._validate_room(length, PACKET_WORK)
        mark = self._ledger.loaded_count
        self._apply_packet(packet)
        key = build_consumed_key(packet.src)
        self._ledger.put(key, Count(packet.seq + 1))
        self._measure(mark)
        self.bytes += length
        self.work += PACKET_WORK
        self._packet_events.append(self._ledger.commit())
        self._consumed.append(proof)

    def execute(
        self, signed_bytes: bytes, signed: SignedTransaction | None = None
    ) -> Outcome:
        """Apply one transaction.

        Args:
            signed_bytes: Its canonical bytes.
            signed: The same decoded, where the caller has it.

        Raises:
            InvalidTransaction: It cannot stand here; nothing was changed.
            ChunkFull: It does not fit; nothing was changed.
        """
        if signed is None:
            signed = decode_transaction(signed_bytes)
        transaction = signed.transaction
        tx_id = compute_tx_id(signed_bytes)
        length = len(signed_bytes)
        work = compute_work(transaction.payload)
        fee = compute_fee(self._context.params, transaction.payload, length)
        mark = self._ledger.loaded_count
        try:
            validate_envelope(self._ledger, self._context, signed, fee)
            verify_once(self._verified, tx_id, signed)
            if len(self._transactions) >= self._limits.transactions:
                raise ChunkFull("transactions")
            self._validate_room(length + FRAMING_BYTES, work)
        except (InvalidTransaction, ChunkFull):
            # It does not stand in the chunk, so what it read is not touched.
            self._ledger.unload(mark)
            raise
        outcome = self._apply(signed, tx_id, fee, work, mark)
        self.bytes += length + FRAMING_BYTES
        self.work += work
        self.fees += fee
        self._transactions.append(signed_bytes)
        self._senders.append(transaction.sender)
        self._outcomes.append(outcome)
        return outcome

    def finish(self) -> ChunkResult:
        """Return the result; the run is over."""
        shards = self._context.layout.shard_ids
        in_cursor = self._compute_counters(shards, build_consumed_key)
        out_count = self._compute_counters(shards, build_emitted_key)
        return ChunkResult(
            transactions=tuple(self._transactions),
            senders=tuple(self._senders),
            consumed=tuple(self._consumed),
            outcomes=tuple(self._outcomes),
            packet_events=tuple(self._packet_events),
            emitted=tuple(self._ledger.packets),
            archived=tuple(self._ledger.archived),
            writes=self._ledger.compute_writes(),
            in_cursor=in_cursor,
            out_count=out_count,
            fees=self.fees,
            work=self.work,
            bytes=self.bytes,
        )

    def compute_touched(self) -> frozenset[bytes]:
        """Return every key that was read or written, also by rules that refused."""
        return self._ledger.compute_touched()

    @property
    def walked(self) -> range:
        """Numbers of buckets that `begin` read whole."""
        return self._walked

    def _validate_room(self, length: int, work: int) -> None:
        if self.bytes + length > self._limits.bytes:
            raise ChunkFull("bytes")
        if self.work + work > self._limits.work:
            raise ChunkFull("work")

    def _measure(self, mark: int) -> None:
        """Count in what was touched since `mark`, or undo it all."""
        if self._meter is None:
            return
        try:
            self._meter.add(self._ledger.list_new_keys(mark))
        except ChunkFull:
            self._ledger.rollback()
            self._ledger.unload(mark)
            raise

    def _apply(
        self,
        signed: SignedTransaction,
        tx_id: bytes,
        fee: int,
        work: int,
        mark: int,
    ) -> Outcome:
        transaction = signed.transaction
        payload = transaction.payload
        charge_fee(self._ledger, self._context, transaction.sender, fee)
        paid = self._ledger.copy_frame()
        call = Call(transaction.sender, transaction.nonce)
        code = message = ""
        try:
            RULES[type(payload)].apply(self._ledger, self._context, call, payload)
        except RuleError as error:
            self._ledger.rollback(paid)
            code, message = error.code, error.message
        self._measure(mark)
        events = self._ledger.commit()
        return Outcome(tx_id, not code, code, message, fee, work, events)

    def _apply_packet(self, packet: Packet) -> None:
        try:
            PACKET_RULES[packet.kind](self._ledger, self._context, packet)
        except (RuleError, DecodeError, KeyError):
            self._ledger.rollback()
            if packet.amount > 0:
                self._return_amount(packet)

    def _return_amount(self, packet: Packet) -> None:
        """Send a failed credit's money back, or burn what belongs to nobody."""
        if packet.kind == PacketKind.CREDIT:
            try:
                sender = decode(Credit, packet.payload).sender
            except DecodeError:
                burn(self._ledger, packet.amount)
                return
            send_packet(
                self._ledger,
                self._context,
                packet.src,
                PacketKind.BOUNCE,
                packet.amount,
                Bounce(sender),
                is_system=True,
            )
        else:
            burn(self._ledger, packet.amount)

    def _compute_counters(
        self, shards: tuple[ShardId, ...], build_key: Callable[[ShardId], bytes]
    ) -> tuple[Counter, ...]:
        counts = [
            (shard, get_count(self._ledger, build_key(shard))) for shard in shards
        ]
        return tuple(Counter(shard, count) for shard, count in counts if count)

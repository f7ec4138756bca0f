"""
What the node and the processes that execute its chunks say to each other.

    4 bytes length, big-endian | one message in canonical bytes

    node                                worker
      |  <------------------------------- Ready            once, when it has started
      |  Execute ----------------------->                  a chunk of a state we hold
      |  <------------------------------- Need             buckets, once at least
      |  Supply ------------------------>
      |  <------------------------------- Done | Refused
      |  Judge ------------------------->                  a chunk with its witness
      |  <------------------------------- Done | Refused

A worker has one request at a time.  One that cannot do it, for whatever reason, ends:
then the node does it.  Both ends are ours, yet both bound what they take
and decode strictly: a bug ends in a typed error, never in memory.  No pickle.
"""

import socket

from chain.execution.chunk import ChunkBody, ExecutedChunk
from chain.execution.chunk_run import ChunkLimits, ChunkResult
from chain.ledger.ledger import Archived
from chain.records.channel import Channel
from chain.records.outcome import Event, Outcome
from chain.records.proof import WorkEntry
from chain.state.bucket_writes import NewBucket
from primitives.buckets import decode_bucket
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError, LocalError
from primitives.types import U8, U32, U63, Address, Amount, Hash32
from shards.chunk import ChunkHeader, Counter
from shards.packet import Packet

PREFIX_BYTES = 4
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""The buckets of 2,666 transfers are 3 MiB and their results 4; buckets that somebody
made large on purpose have room, and what is larger still the node executes itself."""


class LinkFailed(LocalError):
    """The other end of a worker's socket did what ours never does."""


class Execute(Record, tag=1):
    """To a worker: execute a chunk on a state that the node supplies."""

    context: bytes
    """Of `chain.execution.context`."""
    limits: ChunkLimits
    levels: U8
    body: ChunkBody
    known: bytes
    """Bit i: the signature of transaction i was checked before."""


class Judge(Record, tag=2):
    """To a worker: execute a chunk from its witness and compare with its header."""

    context: bytes
    limits: ChunkLimits
    header: ChunkHeader
    body: ChunkBody
    known: bytes
    witness: bytes
    """Untrusted, as it came."""


class Supply(Record, tag=3):
    """To a worker: the buckets of a `Need`, in its order."""

    buckets: tuple[bytes, ...]


class Ready(Record, tag=10):
    """From a worker: it has started."""


class Need(Record, tag=11):
    """From a worker: it reads these buckets; perhaps none."""

    indices: tuple[U32, ...]


class ArchivedRecord(Record):
    """A record for histories, with its kind, which its bytes do not tell."""

    kind: U8
    """Index in `ARCHIVED_KINDS`."""
    data: bytes


class ChangedBucket(Record):
    """A bucket after the chunk."""

    index: U32
    data: bytes
    digest: Hash32


class Done(Record, tag=12):
    """From a worker: the chunk executed; what the request already has is left out."""

    senders: tuple[Address, ...]
    outcomes: tuple[Outcome, ...]
    packet_events: tuple[tuple[Event, ...], ...]
    emitted: tuple[Packet, ...]
    archived: tuple[ArchivedRecord, ...]
    writes: tuple[tuple[bytes, bytes | None], ...]
    """In the order in which the execution wrote them."""
    in_cursor: tuple[Counter, ...]
    out_count: tuple[Counter, ...]
    fees: Amount
    work: U63
    bytes: U32
    buckets: tuple[ChangedBucket, ...]
    touched: tuple[U32, ...]
    """Ascending."""


class Refused(Record, tag=13):
    """From a worker: the chunk's producer is at fault."""

    is_witness: bool
    """Only its witness is."""
    message: str


Request = Execute | Judge | Supply
Answer = Ready | Need | Done | Refused

ARCHIVED_KINDS: tuple[type[Archived], ...] = (Channel, WorkEntry)


def send_message(link: socket.socket, message: Request | Answer) -> None:
    """Send one message.

    Raises:
        LinkFailed: It is longer than the other end takes.
        OSError: The other end is gone, or has not read for too long.
    """
    data = encode(message)
    if len(data) > MAX_FRAME_BYTES:
        raise LinkFailed(f"a message of {len(data)} bytes")
    link.sendall(len(data).to_bytes(PREFIX_BYTES, "big") + data)


def receive_frame(link: socket.socket) -> bytes | None:
    """Return the bytes of the next message; None when the other end has closed.

    Raises:
        LinkFailed: It is too long, or the other end closed in the middle of it.
        OSError: The other end is gone, or has not written for too long.
    """
    prefix = _receive(link, PREFIX_BYTES)
    if not prefix:
        return None
    length = int.from_bytes(prefix, "big")
    if len(prefix) < PREFIX_BYTES or length > MAX_FRAME_BYTES:
        raise LinkFailed(f"a frame that begins with {prefix.hex()}")
    data = _receive(link, length)
    if len(data) < length:
        raise LinkFailed(f"{len(data)} of {length} bytes")
    return data


def _receive(link: socket.socket, length: int) -> bytes:
    """Return `length` bytes, or fewer where the stream ends."""
    buffer = bytearray(length)
    view, place = memoryview(buffer), 0
    while place < length:
        count = link.recv_into(view[place:])
        if count == 0:
            break
        place += count
    return bytes(view[:place])


def decode_request(data: bytes) -> Request:
    """Return what the node asks for.

    Raises:
        DecodeError: Not a request.
    """
    return decode(Request, data, MAX_FRAME_BYTES)  # type: ignore[arg-type]


def decode_answer(data: bytes) -> Answer:
    """Return what a worker answers.

    Raises:
        DecodeError: Not an answer.
    """
    return decode(Answer, data, MAX_FRAME_BYTES)  # type: ignore[arg-type]


def build_done(executed: ExecutedChunk) -> Done:
    """Return a result as it travels."""
    result = executed.result
    return Done(
        senders=result.senders,
        outcomes=result.outcomes,
        packet_events=result.packet_events,
        emitted=result.emitted,
        archived=tuple(
            ArchivedRecord(ARCHIVED_KINDS.index(type(record)), encode(record))
            for record in result.archived
        ),
        writes=tuple(result.writes.items()),
        in_cursor=result.in_cursor,
        out_count=result.out_count,
        fees=result.fees,
        work=result.work,
        bytes=result.bytes,
        buckets=tuple(
            ChangedBucket(index, bucket.data, bucket.digest)
            for index, bucket in executed.buckets.items()
        ),
        touched=tuple(sorted(executed.touched)),
    )


def build_executed(body: ChunkBody, done: Done) -> ExecutedChunk:
    """Return the result that travelled.

    Raises:
        DecodeError: Not what a worker sends.
    """
    result = ChunkResult(
        transactions=body.transactions,
        senders=done.senders,
        consumed=body.packets,
        outcomes=done.outcomes,
        packet_events=done.packet_events,
        emitted=done.emitted,
        archived=tuple(_decode_archived(record) for record in done.archived),
        writes=dict(done.writes),
        in_cursor=done.in_cursor,
        out_count=done.out_count,
        fees=done.fees,
        work=done.work,
        bytes=done.bytes,
    )
    buckets = {
        bucket.index: NewBucket(decode_bucket(bucket.data), bucket.data, bucket.digest)
        for bucket in done.buckets
    }
    return ExecutedChunk(result, buckets, frozenset(done.touched))


def _decode_archived(record: ArchivedRecord) -> Archived:
    if record.kind >= len(ARCHIVED_KINDS):
        raise DecodeError(f"archived record of kind {record.kind}")
    return decode(ARCHIVED_KINDS[record.kind], record.data)


def pack_bits(flags: list[bool]) -> bytes:
    """Return flags as bytes, the first one in the lowest bit of the first byte."""
    number = sum(1 << place for place, flag in enumerate(flags) if flag)
    return number.to_bytes((len(flags) + 7) // 8, "little")


def unpack_bits(data: bytes, count: int) -> list[bool]:
    """Return the first `count` flags."""
    return [bool(data[place // 8] >> place % 8 & 1) for place in range(count)]

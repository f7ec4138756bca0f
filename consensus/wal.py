"""
The log of our own promises, as bytes.

Theory of operation
-------------------
A vote that was sent and forgotten could be contradicted, so every vote is on disk
before it leaves.  The log is a header and records, each framed as

    length  u32, big-endian: bytes of payload
    crc     u32, big-endian: CRC-32 (ISO-HDLC, as in zlib) of the length and payload
    payload canonical encoding of a WalHeader (first) or of a tuple of WalRecords

What is synced together stands in one frame, and is synced before anything is sent.  So
a crash can tear one frame, the last, whose votes nobody has seen: it is dropped.  A
frame that does not check while a whole one follows was not torn but damaged: promises
may be missing, and the log is refused.

Reading and writing files is the driver's work.
"""

import zlib
from collections.abc import Sequence
from typing import Any

from consensus.errors import CorruptWal, WrongWal
from consensus.records import WalRecord
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.types import U8, BlsPublicKey, Hash32

WAL_VERSION = 1
FRAME_BYTES = 8
MAX_BATCH = 256
"""Records in one frame; one turn of the loop makes a handful."""
MAX_PAYLOAD_BYTES = 512 * 256
"""The longest record is a certificate of less than 512 bytes."""


class WalHeader(Record):
    """Whose promises the log holds, and on which chain."""

    version: U8
    public_key: BlsPublicKey
    chain_id: Hash32


def encode_frame(payload: bytes) -> bytes:
    """Return one framed payload."""
    length = len(payload).to_bytes(4, "big")
    return length + zlib.crc32(length + payload).to_bytes(4, "big") + payload


def encode_header(public_key: bytes, chain_id: bytes) -> bytes:
    """Return the bytes that a new log begins with."""
    return encode_frame(encode(WalHeader(WAL_VERSION, public_key, chain_id)))


def encode_records(records: Sequence[Record]) -> bytes:
    """Return the bytes to append: one frame, or several when there are very many."""
    batches = range(0, len(records), MAX_BATCH)
    return b"".join(
        encode_frame(encode(tuple(records[start : start + MAX_BATCH])))
        for start in batches
    )


def scan_wal(
    data: bytes, public_key: bytes, chain_id: bytes, kind: Any = WalRecord
) -> tuple[tuple[Any, ...], int]:
    """Return the records of a log and the length of its sound part.

    The file has to be cut to that length before anything is appended.

    Args:
        data: The file.
        public_key: Whose log it is.
        chain_id: And on which chain.
        kind: What its records are: one class or a union of them.

    Raises:
        CorruptWal: No header, or a damaged record that is not a torn tail.
        WrongWal: The log of another key, chain or version.
    """
    payloads, length = scan_frames(data)
    if not payloads:
        raise CorruptWal("the log has no header")
    try:
        header = decode(WalHeader, payloads[0], MAX_PAYLOAD_BYTES)
        records = [r for payload in payloads[1:] for r in _decode_batch(payload, kind)]
    except DecodeError as error:
        raise CorruptWal(f"a record that we never wrote: {error}") from error
    if header != WalHeader(WAL_VERSION, public_key, chain_id):
        raise WrongWal("the log belongs to another key, chain or version")
    return tuple(records), length


def _decode_batch(payload: bytes, kind: Any) -> tuple[Any, ...]:
    records: tuple[Any, ...] = decode(tuple[kind, ...], payload, MAX_PAYLOAD_BYTES)
    return records


def scan_frames(data: bytes) -> tuple[list[bytes], int]:
    """Return the payloads of a log and the length of its sound part.

    Raises:
        CorruptWal: A damaged frame that is not a torn tail.
    """
    payloads, offset = [], 0
    while (payload := _read_frame(data, offset)) is not None:
        payloads.append(payload)
        offset += FRAME_BYTES + len(payload)
    if any(_read_frame(data, later) for later in range(offset + 1, len(data))):
        raise CorruptWal(f"damage at byte {offset}, before records that are whole")
    return payloads, offset


def _read_frame(data: bytes, offset: int) -> bytes | None:
    """Return the payload of the frame at `offset` if it is whole and checks."""
    length = int.from_bytes(data[offset : offset + 4], "big")
    end = offset + FRAME_BYTES + length
    if not 0 < length <= MAX_PAYLOAD_BYTES or end > len(data):
        return None
    crc = int.from_bytes(data[offset + 4 : offset + FRAME_BYTES], "big")
    payload = data[offset + FRAME_BYTES : end]
    if zlib.crc32(data[offset : offset + 4] + payload) != crc:
        return None
    return payload

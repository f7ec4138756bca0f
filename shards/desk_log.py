"""
The log of our own chunks and endorsements, as bytes.

It has the form of the log of votes (consensus/wal.py), header and frames, in a file of
its own: `Persist` of the desk and of consensus come from two machines, and neither has
to wait for the other's turn of the loop.  Losing it means what losing the other one
means: sign nothing until an epoch that began after the restart.
"""

from collections.abc import Sequence

from consensus.errors import CorruptWal, WrongWal
from consensus.wal import (
    MAX_BATCH,
    MAX_PAYLOAD_BYTES,
    WAL_VERSION,
    WalHeader,
    encode_frame,
    scan_frames,
)
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from shards.desk_state import DeskRecord


def encode_desk_records(records: Sequence[DeskRecord]) -> bytes:
    """Return the bytes to append: one frame, or several when there are very many."""
    return b"".join(
        encode_frame(encode(tuple(records[start : start + MAX_BATCH])))
        for start in range(0, len(records), MAX_BATCH)
    )


def scan_desk_log(
    data: bytes, public_key: bytes, chain_id: bytes
) -> tuple[tuple[DeskRecord, ...], int]:
    """Return the records of a log and the length of its sound part.

    The log begins with `consensus.wal.encode_header`, and has to be cut to that length
    before anything is appended.

    Raises:
        CorruptWal: No header, or a damaged record that is not a torn tail.
        WrongWal: The log of another key, chain or version.
    """
    payloads, length = scan_frames(data)
    if not payloads:
        raise CorruptWal("the log has no header")
    try:
        header = decode(WalHeader, payloads[0], MAX_PAYLOAD_BYTES)
        batches = [_decode_batch(payload) for payload in payloads[1:]]
    except DecodeError as error:
        raise CorruptWal(f"a record that we never wrote: {error}") from error
    if header != WalHeader(WAL_VERSION, public_key, chain_id):
        raise WrongWal("the log belongs to another key, chain or version")
    return tuple(record for batch in batches for record in batch), length


def _decode_batch(payload: bytes) -> tuple[DeskRecord, ...]:
    return decode(tuple[DeskRecord, ...], payload, MAX_PAYLOAD_BYTES)

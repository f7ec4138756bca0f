"""
Bodies of layer shards' chunks: what a block names and does not hold.

    block: header, certificate --chunk hash--> body: packets, transactions

A body is named by its chunk and bound by the header's `tx_root` and `in_root`, so
anybody can give it and nobody can give a wrong one.  More than a third of the stake
has held it, so somebody honest has it.  Who follows the shard needs it before it can
hold the block, as it needs the block's parent; others never do.

    pool      in memory: came, and perhaps no block holds the chunk yet; bounded
    pending   with the blocks that hold it, in memory; on disk once they are saved
    final     on disk, under the chunk's hash

Spec: docs/protocol/06-shards.md
"""

from collections import OrderedDict

from chain.errors import InvalidBody
from chain.execution.chunk import ChunkBody
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from primitives.merkle import compute_list_root
from shards.chunk import ChunkHeader

MAX_BODY_BYTES = 2 * 1024 * 1024
"""A chunk is less than a block's limit, 1 MiB; framing is a few bytes per item."""

MAX_BODIES = 256
"""Bodies in the pool: of each of 64 shards one chunk, and three more."""
MAX_POOL_BYTES = 64 * 1024 * 1024
"""Of them together; the oldest ones go first."""


def validate_chunk_body(header: ChunkHeader, body: ChunkBody) -> None:
    """Check that a body is the one that a chunk's header binds.

    Raises:
        InvalidBody: It is another one.
    """
    if compute_list_root(body.transactions) != header.tx_root:
        raise InvalidBody(f"shard {header.shard}: other transactions")
    if compute_list_root([encode(proof) for proof in body.packets]) != header.in_root:
        raise InvalidBody(f"shard {header.shard}: other packets")


def read_body(header: ChunkHeader, data: bytes) -> ChunkBody:
    """Return the body of a chunk from somebody's bytes.

    Raises:
        InvalidBody: They are not a body, or another chunk's.
    """
    try:
        body = decode(ChunkBody, data, MAX_BODY_BYTES)
    except DecodeError as error:
        raise InvalidBody(f"not a body: {error}") from error
    validate_chunk_body(header, body)
    return body


class BodyPool:
    """Bodies by chunk hash; whoever puts one in has checked it."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[bytes, tuple[ChunkBody, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def get(self, chunk_hash: bytes) -> ChunkBody | None:
        """Return a body, or None."""
        found = self._bodies.get(chunk_hash)
        return None if found is None else found[0]

    def put(self, chunk_hash: bytes, body: ChunkBody, size: int) -> None:
        """Keep a body; the oldest ones go when there is no room.

        Args:
            chunk_hash: Of its chunk.
            body: The one that the chunk's header binds.
            size: Its bytes, as the header counts them.
        """
        if chunk_hash in self._bodies:
            return
        self._bodies[chunk_hash] = (body, size)
        self._bytes += size
        while len(self._bodies) > MAX_BODIES or self._bytes > MAX_POOL_BYTES:
            _, (_, old) = self._bodies.popitem(last=False)
            self._bytes -= old

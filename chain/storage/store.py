"""
The database: what is stored under which key, and typed reads of it.

    S shard index              bucket of the final state (chain/state/state.py) B height
    block H block_hash               height F height                   finalization
    certificate, where a block has its own K shard height             header of the
    shard's chunk in that block C shard seq                height of the block that
    holds the chunk h chunk_hash               shard and height of the chunk O height
    shard             outcomes of the chunk's transactions T tx_id
    place: height, shard, index A address height shard i   tx_id; an address's history E
    height                   events of the block's system step, where it had one I
    address height i         nothing; event i of that step concerns the account L epoch
    its validator set, for ever; light clients ask for it P src dst seq
    packet with its proof Q src dst seq              height of the block that consumed
    the packet R shard account            registration G shard home account       mirror
    Z channel_id               channel as it is, or as it was at its end Y address
    height id        a party's channels, by height of opening W height shard i
    work record posted by transaction i of the chunk V payee height shard i     a
    payee's work records X height i                 nothing; the block applied its
    evidence i u height shard             undo: what a block changed in a shard
    (chain/storage/history.py) J shard height             books of a shard after a block
    (chain/storage/books.py) d chunk_hash               chunk that we vouched for, while
    a block may hold it N height                   header of a block from before a
    snapshot a shard                    since when a shard is followed that was not
    always c chunk_hash               body of a layer shard's chunk, pending or final U
    block_hash               pending block that must survive a crash D evidence_id
    evidence that waits for a block j proof_hash               fraud proof, while a
    block may name it M name                     meta: chain_id, format, tip, seen,
    layout, followed
                               shards; first height and a half-written manifest, of
                               who began with a snapshot

What waits (U, D, d, j) comes and goes.  Everything of a block arrives in one batch when
it becomes final, so the tip says how far all of it is.  Numbers in keys are big-endian,
so iteration is in order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from chain.errors import StoreError
from chain.execution.bodies import MAX_BODY_BYTES
from chain.execution.chunk import ChunkBody
from chain.records.block import Block
from chain.records.header import Header
from chain.records.outcome import Event, Outcome
from consensus.messages import Certificate
from consensus.validators import ValidatorSet
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.kv import KeyValueReader, KeyValueStore
from primitives.types import U32, Epoch, Hash32, Height, ShardId
from shards.chunk import Chunk, ChunkHeader, compute_chunk_hash
from shards.layout import ROOT_SHARD, Layout
from shards.packet import PacketProof

FORMAT = b"7"
"""Raised when keys or values change; another format is refused, never guessed."""

CHAIN_ID_KEY = b"Mchain_id"
FORMAT_KEY = b"Mformat"
TIP_KEY = b"Mtip"
SEEN_KEY = b"Mseen"
FIRST_KEY = b"Mfirst"
LAYOUT_KEY = b"Mlayout"
FOLLOW_KEY = b"Mfollow"
INSTALL_KEY = b"Minstall"

SHARD_LETTERS = (b"S", b"R", b"G", b"J", b"a")
"""Of what is known of a shard while it is followed, by shard."""

DELETE_BATCH = 4096
"""Keys deleted at once."""

R = TypeVar("R")


class Tip(Record):
    """The last final block."""

    height: Height
    block_hash: Hash32


class Place(Record):
    """Where a transaction stands."""

    height: Height
    shard: ShardId
    index: U32


class AdoptedAt(Record):
    """Since when a shard is followed that was not followed from its beginning."""

    first: Height
    """The block with whose state it began: what was done later is in the index."""
    joined: Height
    """The last final block then: states from here on can be had."""


@dataclass(frozen=True, slots=True)
class StoredPacket:
    """A final packet and what became of it."""

    proof: PacketProof
    consumed_height: Height | None
    """Height of the block that consumed it; None while it waits."""


def build_key(letter: bytes, *parts: bytes | tuple[int, int]) -> bytes:
    """Return a key of a letter and parts: bytes, or (number, width in bytes)."""
    return letter + b"".join(
        part if isinstance(part, bytes) else part[0].to_bytes(part[1], "big")
        for part in parts
    )


def build_body_key(chunk_hash: bytes) -> bytes:
    """Return the key of a chunk's body."""
    return b"c" + chunk_hash


def build_adopted_key(shard: ShardId) -> bytes:
    """Return the key under which it stands since when a shard is followed."""
    return build_key(b"a", (shard, 2))


class _BlockHead(msgspec.Struct, frozen=True, array_like=True):
    """A stored block of which only the header is read."""

    header: Header
    body: msgspec.Raw


_head_decoder = msgspec.msgpack.Decoder(_BlockHead)


class ChainReader:
    """Typed reads of what final blocks left behind."""

    def __init__(self, store: KeyValueReader) -> None:
        self.kv = store

    def get_tip(self) -> Tip | None:
        """Return the last final block, or None in an empty database."""
        return self._get(TIP_KEY, Tip)

    def get_first_height(self) -> Height:
        """Return where history begins: 0, or the height of a snapshot's block."""
        data = self.kv.get(FIRST_KEY)
        return 0 if data is None else int.from_bytes(data, "big")

    def get_height(self, block_hash: bytes) -> Height | None:
        """Return the height of a final block."""
        data = self.kv.get(build_key(b"H", block_hash))
        return None if data is None else int.from_bytes(data, "big")

    def get_block_bytes(self, height: Height) -> bytes | None:
        """Return the bytes of the final block at `height`."""
        return self.kv.get(build_key(b"B", (height, 8)))

    def get_body(self, chunk_hash: bytes) -> ChunkBody | None:
        """Return the body of a layer shard's chunk that a saved or final block holds.

        Raises:
            StoreError: Damaged.
        """
        data = self.get_body_bytes(chunk_hash)
        try:
            return None if data is None else decode(ChunkBody, data, MAX_BODY_BYTES)
        except DecodeError as error:
            raise StoreError(f"damaged body in the database: {error}") from error

    def get_body_bytes(self, chunk_hash: bytes) -> bytes | None:
        """Return its bytes."""
        return self.kv.get(build_body_key(chunk_hash))

    def get_chunk(self, block: Block, shard: ShardId) -> Chunk | None:
        """Return a shard's chunk in a final block; None: it has none, or no body here.

        Raises:
            StoreError: Damaged.
        """
        if shard == ROOT_SHARD:
            return block.body.root
        header = block.body.find_header(shard)
        body = None if header is None else self.get_body(compute_chunk_hash(header))
        if header is None or body is None:
            return None
        return Chunk(header, body.transactions, body.packets)

    def has_chunk(self, header: ChunkHeader) -> bool:
        """Tell whether all of a final chunk is here."""
        name = build_body_key(compute_chunk_hash(header))
        return header.shard == ROOT_SHARD or self.kv.get(name) is not None

    def get_followed(self) -> frozenset[ShardId]:
        """Return the shards whose state is here.

        Raises:
            StoreError: It does not say.
        """
        data = self.kv.get(FOLLOW_KEY)
        if data is None:
            raise StoreError("the database does not say which shards it follows")
        return frozenset(self._decode(tuple[ShardId, ...], data))

    def get_adopted(self, shard: ShardId) -> AdoptedAt | None:
        """Return since when a shard is followed; None: for as long as it and our
        history are there.
        """
        return self._get(build_adopted_key(shard), AdoptedAt)

    def get_header(self, height: Height) -> Header | None:
        """Return the header of the final block at `height`, of which no more may be
        here: packets may be under way from before the snapshot that a node began with.
        """
        data = self.get_block_bytes(height)
        if data is None:
            return self._get(build_key(b"N", (height, 8)), Header)
        return _head_decoder.decode(data).header

    def get_block(self, height: Height) -> Block | None:
        """Return the final block at `height`."""
        return self._get(build_key(b"B", (height, 8)), Block)

    def get_certificate(self, height: Height) -> Certificate | None:
        """Return the certificate that made the block at `height` final.

        A block that became final with a later one shares that one's.
        """
        if height < self.get_first_height():
            return None
        for _, data in self.kv.iterate(b"F", start=build_key(b"F", (height, 8))):
            return self._decode(Certificate, data)
        return None

    def get_validators(self, epoch: Epoch) -> ValidatorSet | None:
        """Return the validator set of an epoch that has begun; not that of epoch 0."""
        return self._get(build_key(b"L", (epoch, 8)), ValidatorSet)

    def get_chunk_header(self, shard: ShardId, height: Height) -> ChunkHeader | None:
        """Return the header of the shard's chunk in the block at `height`."""
        return self._get(build_key(b"K", (shard, 2), (height, 8)), ChunkHeader)

    def list_chunk_headers(
        self, height: Height, shards: Iterable[ShardId]
    ) -> tuple[ChunkHeader, ...]:
        """Return the headers of the chunks in the block at `height`.

        Args:
            height: Of the block.
            shards: Of the layout, ascending.
        """
        found = (self.get_chunk_header(shard, height) for shard in shards)
        return tuple(header for header in found if header is not None)

    def get_chunk_height(self, shard: ShardId, seq: int) -> Height | None:
        """Return the height of the block that holds chunk `seq` of the shard."""
        data = self.kv.get(build_key(b"C", (shard, 2), (seq, 8)))
        return None if data is None else int.from_bytes(data, "big")

    def find_chunk(self, chunk_hash: bytes) -> tuple[ShardId, Height] | None:
        """Return the shard of a final chunk and the height of its block."""
        data = self.kv.get(build_key(b"h", chunk_hash))
        if data is None:
            return None
        return int.from_bytes(data[:2], "big"), int.from_bytes(data[2:], "big")

    def get_last_chunk(self, shard: ShardId) -> ChunkHeader:
        """Return the shard's newest chunk header, the genesis one at least.

        Raises:
            StoreError: There is none.
        """
        prefix = build_key(b"K", (shard, 2))
        for _, data in self.kv.iterate(prefix, reverse=True):
            return self._decode(ChunkHeader, data)
        raise StoreError(f"no chunk of shard {shard} in the database")

    def find_last_chunk(self, shard: ShardId, height: Height) -> ChunkHeader | None:
        """Return the shard's newest chunk header as of the block at `height`."""
        prefix = build_key(b"K", (shard, 2))
        start = build_key(b"K", (shard, 2), (height, 8))
        for _, data in self.kv.iterate(prefix, start=start, reverse=True):
            return self._decode(ChunkHeader, data)
        return None

    def get_outcomes(self, height: Height, shard: ShardId) -> tuple[Outcome, ...]:
        """Return the outcomes of the shard's transactions in the block."""
        data = self.kv.get(build_key(b"O", (height, 8), (shard, 2)))
        return () if data is None else self._decode(tuple[Outcome, ...], data)

    def get_system_events(self, height: Height) -> tuple[Event, ...]:
        """Return what the block did besides its chunks."""
        data = self.kv.get(build_key(b"E", (height, 8)))
        return () if data is None else self._decode(tuple[Event, ...], data)

    def get_layout(self) -> Layout:
        """Return the shards of the state: those of the next block's epoch.

        Raises:
            StoreError: There are none.
        """
        layout = self._get(LAYOUT_KEY, Layout)
        if layout is None:
            raise StoreError("the database has no layout")
        return layout

    def get_seen(self) -> tuple[int, ...]:
        """Return the tally of attendance up to the last final block.

        Raises:
            StoreError: There is none.
        """
        data = self.kv.get(SEEN_KEY)
        if data is None:
            raise StoreError("the database has no tally of attendance")
        return self._decode(tuple[int, ...], data)

    def get_place(self, tx_id: bytes) -> Place | None:
        """Return where a final transaction stands."""
        return self._get(build_key(b"T", tx_id), Place)

    def get_packet(self, src: ShardId, dst: ShardId, seq: int) -> StoredPacket | None:
        """Return a final packet."""
        place = ((src, 2), (dst, 2), (seq, 8))
        proof = self._get(build_key(b"P", *place), PacketProof)
        if proof is None:
            return None
        consumed = self.kv.get(build_key(b"Q", *place))
        height = None if consumed is None else int.from_bytes(consumed, "big")
        return StoredPacket(proof, height)

    def iterate_pending(self) -> Iterator[bytes]:
        """Yield the bytes of blocks that were saved before they were final."""
        for _, data in self.kv.iterate(b"U"):
            yield data

    def iterate_evidence(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield id and bytes of every piece that waits for a block."""
        for key, data in self.kv.iterate(b"D"):
            yield key[1:], data

    def read(self, key: bytes, kind: type[R]) -> R | None:
        """Return the decoded value under a key built by `build_key`."""
        return self._get(key, kind)

    def iterate(
        self,
        prefix: bytes,
        kind: type[R],
        *,
        start: bytes | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, R]]:
        """Yield decoded values under a prefix, in key order."""
        for key, data in self.kv.iterate(prefix, start=start, reverse=reverse):
            yield key, self._decode(kind, data)

    def _get(self, key: bytes, kind: type[R]) -> R | None:
        data = self.kv.get(key)
        return None if data is None else self._decode(kind, data)

    def _decode(self, kind: type[R], data: bytes) -> R:
        try:
            return decode(kind, data)
        except DecodeError as error:
            raise StoreError(f"damaged {kind} in the database: {error}") from error


class ChainStore(ChainReader):
    """The database of a running chain."""

    def __init__(self, store: KeyValueStore) -> None:
        super().__init__(store)
        self.kv: KeyValueStore = store

    def save_evidence(self, evidence_id: bytes, data: bytes) -> None:
        """Keep a piece that waits for a block; returns when it is on disk."""
        self.kv.write({build_key(b"D", evidence_id): data}, sync=True)

    def delete_evidence(self, evidence_ids: Iterable[bytes]) -> None:
        """Forget pieces that wait no more; a crash may bring them back once."""
        changes = {build_key(b"D", name): None for name in evidence_ids}
        if changes:
            self.kv.write(changes, sync=False)


def encode_tip(height: Height, block_hash: bytes) -> bytes:
    """Return the value under the tip's key."""
    return encode(Tip(height, block_hash))


def forget_shard(kv: KeyValueStore, shard: ShardId) -> None:
    """Delete the state of a shard that is not followed, and lists of what is in it.

    What it once did stays in the index, for that was so.
    """
    for letter in SHARD_LETTERS:
        delete_prefix(kv, build_key(letter, (shard, 2)))


def delete_prefix(kv: KeyValueStore, prefix: bytes) -> None:
    """Delete every key that begins with `prefix`, in several batches."""
    batch: dict[bytes, bytes | None] = {}
    for key, _ in kv.iterate(prefix):
        batch[key] = None
        if len(batch) == DELETE_BATCH:
            kv.write(batch, sync=False)
            batch = {}
    if batch:
        kv.write(batch, sync=False)

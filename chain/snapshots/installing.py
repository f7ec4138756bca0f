"""
Writing a snapshot into a database, so that the chain opens at its block.

The shards whose state it gives are followed then, and the others are not.

Theory of operation
-------------------
    1  the manifest, under a key of its own                       synced
    2  the old chain is deleted, then part after part is written
    3  block, certificate, packets, tip; the manifest goes        synced

Before 1 the old chain is whole, after 3 the new one.  In between the manifest tells
whoever opens the database that it has to go on: everything that is needed is on this
disk, in files, and 2 can be done as often as it takes.  So to every reader it is one
step, and no batch is longer than a part, whatever the size of the state.

What is not the chain's stays: vouchers and receipts, and evidence that waits.

Spec: docs/protocol/14-state-sync.md
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from chain.errors import StoreError
from chain.ledger.layouts import get_layout
from chain.ledger.ledger import ShardLedger
from chain.ledger.roster import get_validators
from chain.records.block import compute_roots_root
from chain.records.spec import ChainSpec
from chain.snapshots.part import validate_part
from chain.snapshots.snapshot import (
    Manifest,
    PartPlace,
    Snapshot,
    decode_manifest,
    read_snapshot,
)
from chain.state.state import StateView
from chain.state.stored_buckets import build_bucket_key, pack_bucket
from chain.storage.books import (
    Books,
    add_books,
    balance_books,
    build_books_key,
    count_books,
)
from chain.storage.final_state import FinalState
from chain.storage.index import Changes, index_objects
from chain.storage.store import (
    CHAIN_ID_KEY,
    FIRST_KEY,
    FOLLOW_KEY,
    FORMAT,
    FORMAT_KEY,
    INSTALL_KEY,
    LAYOUT_KEY,
    SEEN_KEY,
    TIP_KEY,
    build_key,
    delete_prefix,
    encode_tip,
)
from primitives.buckets import compute_bucket_hash, decode_bucket
from primitives.codec import encode
from primitives.kv import KeyValueStore
from primitives.types import Height, ShardId
from shards.chunk import compute_chunk_hash
from shards.layout import ROOT_SHARD

CHAIN_LETTERS = b"SBHFKChcOTAEIJPQRGZYWVXUNa"
"""What belongs to one history of the chain; not L, sets that stay true, nor D and M."""

PartReader = Callable[[PartPlace], bytes]


def get_unfinished(kv: KeyValueStore) -> Manifest | None:
    """Return the manifest of a snapshot that was being written when a process ended.

    Raises:
        InvalidSnapshot: It was the chain's end instead; see `delete_chain`.
    """
    data = kv.get(INSTALL_KEY)
    return None if data is None else decode_manifest(data)


def install_snapshot(
    spec: ChainSpec, kv: KeyValueStore, manifest: Manifest, read: PartReader
) -> Iterator[tuple[int, int]]:
    """Replace the chain in a database by a snapshot; yield (parts done, all parts).

    The caller has made sure that the snapshot's block is final, and that `read` has
    every part.  After an error or a crash it starts again with the same manifest.

    Raises:
        InvalidSnapshot: A part that is not the manifest's; get that part anew.
        StoreError: The disk failed, or the state has not the set of the next epoch.
    """
    snapshot = read_snapshot(manifest, spec.chain_id, spec.params.epoch_blocks)
    kv.write({INSTALL_KEY: encode(manifest)}, sync=True)
    for letter in CHAIN_LETTERS:
        delete_prefix(kv, bytes([letter]))
    places = snapshot.list_places()
    books = dict.fromkeys(snapshot.given, Books())
    for done, place in enumerate(places):
        yield done, len(places)
        part = read_part_changes(place, read(place))
        kv.write(part.changes, sync=False)
        books[place.shard] = add_books(books[place.shard], part.books)
    changes = _compute_last_changes(spec, kv, snapshot)
    for shard, counted in books.items():
        changes[build_books_key(shard, snapshot.height)] = encode(
            balance_books(counted)
        )
    kv.write(changes, sync=True)
    yield len(places), len(places)


def delete_chain(kv: KeyValueStore) -> None:
    """Empty a database of its chain, half a snapshot included; the rest stays.

    A crash in the middle leaves an unfinished snapshot's mark or no tip, and whoever
    opens the database does this again.
    """
    if kv.get(INSTALL_KEY) is None:
        kv.write({INSTALL_KEY: b""}, sync=True)
    for letter in CHAIN_LETTERS:
        delete_prefix(kv, bytes([letter]))
    kv.write({key: None for key, _ in kv.iterate(INSTALL_KEY[:1])}, sync=True)


@dataclass(frozen=True, slots=True)
class ReadPart:
    """What a good part brings."""

    changes: Changes
    """Buckets, and what is listed of them."""
    books: Books
    """Of its buckets alone."""
    digests: Mapping[int, bytes]
    """Hashes of its buckets, by number."""


def read_part_changes(place: PartPlace, data: bytes) -> ReadPart:
    """Return what writes a part into a database.

    Raises:
        InvalidSnapshot: It is not the part of that place.
    """
    changes: Changes = {}
    buckets = []
    digests = {}
    for bucket in validate_part(place, data).buckets:
        digest = digests[bucket.index] = compute_bucket_hash(bucket.data)
        key = build_bucket_key(place.shard, bucket.index)
        changes[key] = pack_bucket(bucket.data, digest)
        pairs = decode_bucket(bucket.data)
        buckets.append(pairs)
        index_objects(changes, place.shard, pairs)
    return ReadPart(changes, count_books(buckets, 0), digests)


def _compute_last_changes(
    spec: ChainSpec, kv: KeyValueStore, snapshot: Snapshot
) -> Changes:
    """Return the batch after which the chain is there; the state is written already."""
    roots, given = snapshot.roots, snapshot.given
    told = {shard: root for shard, root in roots.items() if shard not in given}
    state = FinalState(kv, tuple(roots), spec.params.bucket_levels, told)
    state.load()
    view = StateView.from_final(state)
    if compute_roots_root(view.get_roots()) != snapshot.header.roots_root:
        raise StoreError("the state that was written is not the snapshot's")
    ledger = ShardLedger(lambda key: view.get(ROOT_SHARD, key))
    epoch, height = snapshot.header.epoch, snapshot.height
    layout = get_layout(ledger, epoch + 1)
    if layout.shard_ids != tuple(snapshot.roots):
        raise StoreError(f"other shards than those of epoch {epoch + 1}")
    following = get_validators(ledger, epoch + 1)
    if following is None:
        raise StoreError(f"the state has no validators of epoch {epoch + 1}")
    manifest = snapshot.manifest
    at = height.to_bytes(8, "big")
    changes: Changes = {
        build_key(b"B", (height, 8)): manifest.block,
        build_key(b"H", snapshot.block_hash): at,
        build_key(b"F", (height, 8)): encode(manifest.certificate),
        build_key(b"L", (epoch, 8)): encode(manifest.validators),
        build_key(b"L", (epoch + 1, 8)): encode(following),
        CHAIN_ID_KEY: spec.chain_id,
        FORMAT_KEY: FORMAT,
        FIRST_KEY: at,
        TIP_KEY: encode_tip(height, snapshot.block_hash),
        LAYOUT_KEY: encode(layout),
        FOLLOW_KEY: encode(tuple(sorted(given))),
        # The first block of an epoch counts anew.
        SEEN_KEY: encode((0,) * len(manifest.validators)),
        INSTALL_KEY: None,
    }
    for header in manifest.ancestors:
        changes[build_key(b"N", (header.height, 8))] = encode(header)
    for proof in manifest.packets:
        place = (
            (proof.packet.src, 2),
            (proof.packet.dst, 2),
            (proof.packet.seq, 8),
        )
        changes[build_key(b"P", *place)] = encode(proof)
    changes.update(_compute_chunk_changes(snapshot))
    return changes


def _compute_chunk_changes(snapshot: Snapshot) -> Changes:
    """Return the entries of the chunk headers that the next blocks refer to.

    A shard's newest header may be from long before: then nobody proves in which block
    it stood, and nothing asks, for all its packets were consumed.  It is kept as the
    shard's first one, where an older node has the genesis header.
    """
    changes: Changes = {}
    known = {
        (source.height, chunk.shard): chunk
        for source in snapshot.manifest.sources
        for chunk in source.chunks
    }
    for header in snapshot.block.body.headers:
        known[snapshot.height, header.shard] = header
    newest: dict[ShardId, Height] = {}
    for (height, shard), header in sorted(known.items(), key=lambda item: item[0]):
        newest[shard] = height
        changes[build_key(b"K", (shard, 2), (height, 8))] = encode(header)
        at = (height, 8)
        changes[build_key(b"C", (shard, 2), (header.seq, 8))] = build_key(b"", at)
        name = build_key(b"h", compute_chunk_hash(header))
        changes[name] = build_key(b"", (shard, 2), at)
    for shard, head in snapshot.heads.items():
        if head != known.get((newest.get(shard, 0), shard)):
            changes[build_key(b"K", (shard, 2), (0, 8))] = encode(head)
    return changes

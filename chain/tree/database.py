"""Creating the database of a chain, and finding the final block in one."""

from chain.errors import OtherFormat, StoreError, UnfinishedInstall
from chain.execution.held import HeldBlock
from chain.ledger.epochs import EpochState, load_epoch
from chain.ledger.ledger import ShardLedger
from chain.records.block import NO_ATTENDANCE, Block, Body, compute_roots_root
from chain.records.header import compute_block_hash
from chain.records.spec import ChainSpec, build_genesis_chunk, build_genesis_header
from chain.state.state import StateView
from chain.state.stored_buckets import build_bucket_key, unpack_bucket
from chain.storage.books import compute_genesis_books
from chain.storage.final_state import FinalState
from chain.storage.store import (
    CHAIN_ID_KEY,
    FOLLOW_KEY,
    FORMAT,
    FORMAT_KEY,
    INSTALL_KEY,
    LAYOUT_KEY,
    SEEN_KEY,
    TIP_KEY,
    ChainStore,
    build_key,
    encode_tip,
    forget_shard,
)
from chain.tree.custody import choose_followed
from chain.tree.following import Follow
from primitives.buckets import compute_bucket_index, decode_bucket
from primitives.codec import encode
from primitives.types import ShardId
from shards.layout import ROOT_SHARD


def create_chain(spec: ChainSpec, store: ChainStore, state: FinalState) -> None:
    """Write block 0 and its state into an empty database, in one batch."""
    view = StateView.from_final(state).compute_child(spec.state)
    roots = view.get_roots()
    header = build_genesis_header(spec, roots)
    block_hash = compute_block_hash(header)
    block = Block(header, Body(None, (), NO_ATTENDANCE, ()))
    changes = state.compute_changes(view)
    changes[build_key(b"B", (0, 8))] = encode(block)
    changes[build_key(b"H", block_hash)] = bytes(8)
    for shard, root in roots.items():
        chunk = build_genesis_chunk(shard, root)
        changes[build_key(b"K", (shard, 2), (0, 8))] = encode(chunk)
    changes[CHAIN_ID_KEY] = spec.chain_id
    changes[FORMAT_KEY] = FORMAT
    changes.update(compute_genesis_books(spec.state))
    changes[TIP_KEY] = encode_tip(0, block_hash)
    changes[LAYOUT_KEY] = encode(spec.first_layout)
    changes[FOLLOW_KEY] = encode(tuple(sorted(roots)))
    changes[SEEN_KEY] = encode((0,) * len(spec.first_validators))
    store.kv.write(changes, sync=True)


def check_database(spec: ChainSpec, store: ChainStore) -> None:
    """Check that a database is one of this chain, and whole.

    Raises:
        StoreError: Another chain or another format.
        UnfinishedInstall: A snapshot is half written.
    """
    if store.kv.get(INSTALL_KEY) is not None:
        raise UnfinishedInstall("a snapshot is half written; write it again")
    if (found := store.kv.get(FORMAT_KEY)) != FORMAT:
        raise OtherFormat(found, FORMAT)
    if store.kv.get(CHAIN_ID_KEY) != spec.chain_id:
        raise StoreError("the database belongs to another chain")


def drop_unfollowed(
    spec: ChainSpec, store: ChainStore, follow: Follow
) -> frozenset[ShardId]:
    """Delete the state of shards that are not wanted; return those that are here.

    First the word that they are here goes, so a crash leaves no shard with half a
    state.
    """
    stored = store.get_followed()
    layout = store.get_layout()
    ledger = _open_stored_ledger(spec, store)
    followed = stored & choose_followed(ledger, layout, follow)
    if followed != stored:
        store.kv.write({FOLLOW_KEY: encode(tuple(sorted(followed)))}, sync=True)
    for shard in layout.shard_ids:
        if shard not in followed:
            forget_shard(store.kv, shard)
    return followed


def _open_stored_ledger(spec: ChainSpec, store: ChainStore) -> ShardLedger:
    """Return the root shard's state as it is stored; `load_final` verifies it."""
    levels = spec.params.bucket_levels

    def read(key: bytes) -> bytes | None:
        index = compute_bucket_index(key, levels)
        stored = store.kv.get(build_bucket_key(ROOT_SHARD, index))
        if stored is None:
            return None
        data, _ = unpack_bucket(ROOT_SHARD, index, stored)
        return decode_bucket(data).get(key)

    return ShardLedger(read)


def load_final(spec: ChainSpec, store: ChainStore, state: FinalState) -> HeldBlock:
    """Return the last final block; its state is read and compared with its header.

    Raises:
        StoreError: A damaged database.
    """
    tip = store.get_tip()
    block_bytes = None if tip is None else store.get_block_bytes(tip.height)
    block = None if tip is None else store.get_block(tip.height)
    if tip is None or block is None or block_bytes is None:
        raise StoreError("the last final block is not in the database")
    if compute_block_hash(block.header) != tip.block_hash:
        raise StoreError(f"the block at height {tip.height} is not the final one")
    state.load()
    view = StateView.from_final(state)
    if compute_roots_root(view.get_roots()) != block.header.roots_root:
        raise StoreError("the stored state is not the one of the last final block")
    return HeldBlock(
        block_hash=tip.block_hash,
        block=block,
        block_bytes=block_bytes,
        view=view,
        heads={shard: store.get_last_chunk(shard) for shard in state.shards},
        followed=frozenset(state.followed),
        results={},
        bodies={},
        strayed={},
        emitted={},
        events=(),
        seen=store.get_seen(),
        child_epoch=load_child_epoch(spec, view),
    )


def load_child_epoch(spec: ChainSpec, view: StateView) -> EpochState:
    """Return the epoch of a block that follows the one after which `view` is.

    Raises:
        StoreError: The state has none.
    """
    ledger = ShardLedger(lambda key: view.get(ROOT_SHARD, key))
    return load_epoch(ledger, spec.params.epoch_blocks)

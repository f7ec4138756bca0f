"""A block tree over a database."""

from chain.execution.verified import VerifiedCache
from chain.records.spec import ChainSpec
from chain.storage.final_state import FinalState
from chain.storage.store import ChainStore
from chain.tree.blocktree import BlockTree
from chain.tree.database import (
    check_database,
    create_chain,
    drop_unfollowed,
    load_final,
)
from chain.tree.following import FOLLOW_ALL, Follow
from consensus.scheme import SignatureScheme
from primitives.kv import KeyValueStore


def open_tree(
    spec: ChainSpec,
    kv: KeyValueStore,
    scheme: SignatureScheme,
    follow: Follow = FOLLOW_ALL,
) -> BlockTree:
    """Return the tree over a database, which is created if it is empty.

    Args:
        spec: The chain.
        kv: Its database.
        scheme: Of signatures.
        follow: The shards that we want.  State of others is deleted; state that is
            not here does not come by itself.

    Raises:
        StoreError: The database is of another chain or format, or damaged.
    """
    store = ChainStore(kv)
    levels = spec.params.bucket_levels
    if store.get_tip() is None:
        create_chain(spec, store, FinalState(kv, spec.first_layout.shard_ids, levels))
    check_database(spec, store)
    followed = drop_unfollowed(spec, store, follow)
    shards = store.get_layout().shard_ids
    told = {s: store.get_last_chunk(s).post_root for s in shards if s not in followed}
    state = FinalState(kv, shards, levels, told)
    final = load_final(spec, store, state)
    tree = BlockTree(spec, store, scheme, state, final, VerifiedCache(), follow)
    tree.load_pending()
    return tree

"""
Conservation: nothing was ever made or lost but by the rules.

`get_conservation` sums up the books that came with a block, for any final height and
at once; a node that follows some shards sums up theirs.  `compute_conservation`
believes no books and counts the whole final state: for `db verify` and for tests.
"""

from collections.abc import Mapping

from chain.errors import HistoryAbsent, StoreError
from chain.storage.books import Books, add_books, count_books, get_books
from chain.storage.store import ChainReader
from chain.tree.blocktree import BlockTree
from primitives.buckets import decode_bucket
from primitives.types import Height, ShardId
from shards.chunk import ChunkHeader, get_count


def get_conservation(tree: BlockTree, height: Height | None = None) -> Books:
    """Return all shards' books after a final block, as they were written with it.

    Args:
        tree: The chain.
        height: Of the block; None: the last final one.

    Raises:
        HistoryAbsent: From before our history.
        StoreError: Damaged.
    """
    height = tree.final_height if height is None else height
    total = Books()
    known = 0
    for shard in tree.state.followed:
        books = get_books(tree.state, shard, height)
        if books is not None:
            known += 1
            total = add_books(total, books)
    if height < tree.first_height or not known:
        if height == tree.final_height:
            # A snapshot's block: counted with the next one, if nobody asks before.
            return compute_conservation(tree)
        raise HistoryAbsent(height, tree.first_height)
    return total


def compute_conservation(tree: BlockTree) -> Books:
    """Return all shards' books in the final state by counting all of it.

    Raises:
        StoreError: A packet that should be in the database is not.
    """
    total = Books()
    followed = tree.state.followed
    for shard in followed:
        buckets = tree.state.iterate_buckets(shard)
        if len(followed) == len(tree.state.shards):
            away = count_packets(tree.store, tree.final.heads, shard)
        else:
            # What others consumed of it is only in the books.
            books = get_books(tree.state, shard, tree.final_height)
            away = 0 if books is None else books.away
        decoded = (decode_bucket(data) for _, data, _ in buckets)
        total = add_books(total, count_books(decoded, away))
    return total


def count_packets(
    store: ChainReader, heads: Mapping[ShardId, ChunkHeader], src: ShardId
) -> int:
    """Return the atoms in packets of `src` that are not consumed yet.

    Raises:
        StoreError: One of them is not in the database.
    """
    total = 0
    for dst, head in heads.items():
        first = get_count(head.in_cursor, src)
        for seq in range(first, get_count(heads[src].out_count, dst)):
            stored = store.get_packet(src, dst, seq)
            if stored is None:
                raise StoreError(f"packet {src}->{dst} number {seq} is missing")
            total += stored.proof.packet.amount
    return total

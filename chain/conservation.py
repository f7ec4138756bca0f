"""
Conservation: nothing was ever made or lost but by the rules.

`get_conservation` sums up the books that came with a block, for any final height and
at once; a node that follows some shards sums up theirs, and `packets` is then what is
away from them.  `compute_conservation` believes no books and counts the whole final
state: for `db verify` and for tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from chain.blocktree import BlockTree
from chain.books import ShardBooks, count_books, get_books
from chain.errors import HistoryAbsent, StoreError
from chain.store import ChainReader
from primitives.buckets import decode_bucket
from primitives.types import Height, ShardId
from shards.chunk import ChunkHeader, get_count


@dataclass(slots=True)
class Conservation:
    """Atoms by where they are, over all shards at one final height."""

    height: int = 0
    balances: int = 0
    maturing: int = 0
    stake: int = 0
    """Bonded."""
    unbonding: int = 0
    collateral: int = 0
    channels: int = 0
    """Deposits that are neither settled nor refunded."""
    packets: int = 0
    """Emitted and not consumed yet."""
    burned: int = 0
    genesis: int = 0
    minted: int = 0

    @property
    def held(self) -> int:
        """Everything that is somewhere, and what was burned."""
        return (
            self.balances
            + self.maturing
            + self.stake
            + self.unbonding
            + self.collateral
            + self.channels
            + self.packets
            + self.burned
        )

    @property
    def created(self) -> int:
        """Everything that ever came into being."""
        return self.genesis + self.minted

    @property
    def is_conserved(self) -> bool:
        """Both sides are equal."""
        return self.held == self.created

    def to_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def get_conservation(tree: BlockTree, height: Height | None = None) -> Conservation:
    """Return the books after a final block, as they were written with it.

    Args:
        tree: The chain.
        height: Of the block; None: the last final one.

    Raises:
        HistoryAbsent: From before our history.
        StoreError: Damaged.
    """
    height = tree.final_height if height is None else height
    total = Conservation(height=height)
    known = 0
    for shard in tree.state.followed:
        books = get_books(tree.state, shard, height)
        if books is not None:
            known += 1
            _add(total, books)
    if height < tree.first_height or not known:
        if height == tree.final_height:
            # A snapshot's block: counted with the next one, if nobody asks before.
            return compute_conservation(tree)
        raise HistoryAbsent(height, tree.first_height)
    return total


def compute_conservation(tree: BlockTree) -> Conservation:
    """Return the books of the final state by counting all of it.

    Raises:
        StoreError: A packet that should be in the database is not.
    """
    total = Conservation(height=tree.final_height)
    followed = tree.state.followed
    for shard in followed:
        buckets = tree.state.iterate_buckets(shard)
        if len(followed) == len(tree.state.shards):
            away = count_packets(tree.store, tree.final.heads, shard)
        else:
            # What others consumed of it is only in the books.
            books = get_books(tree.state, shard, tree.final_height)
            away = 0 if books is None else books.away
        _add(total, count_books((decode_bucket(data) for _, data, _ in buckets), away))
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


def _add(total: Conservation, books: ShardBooks) -> None:
    for name in ShardBooks.__struct_fields__:
        where = "packets" if name == "away" else name
        setattr(total, where, getattr(total, where) + getattr(books, name))

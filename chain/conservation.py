"""
Conservation: nothing was ever made or lost but by the rules.

Reads the whole final state, so it is a tool (`db verify`) and a test, not a hot path.
"""

from dataclasses import dataclass, fields

from chain.account import Account
from chain.blocktree import BlockTree
from chain.contracts.channel import Channel
from chain.contracts.registration import Registration
from chain.errors import StoreError
from chain.keys import (
    TOTALS_KEY,
    build_account_key,
    build_channel_key,
    build_registration_key,
    build_stake_key,
)
from chain.ledger import Totals
from chain.stake import Stake
from primitives.buckets import compute_bucket_count
from primitives.codec import decode
from primitives.types import ShardId
from shards.chunk import get_count

ACCOUNT, CHANNEL = build_account_key(b""), build_channel_key(b"")
REGISTRATION, STAKE = build_registration_key(b""), build_stake_key(b"")


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


def compute_conservation(tree: BlockTree) -> Conservation:
    """Return the books of the final state.

    Raises:
        StoreError: A packet that should be in the database is not.
    """
    books = Conservation(height=tree.final_height)
    view = tree.final.view
    for shard in tree.layout.shard_ids:
        for index in range(compute_bucket_count(tree.spec.params.bucket_levels)):
            for key, value in view.get_bucket(shard, index).items():
                _count(books, key, value)
        books.packets += _count_packets(tree, shard)
    return books


def _count(books: Conservation, key: bytes, value: bytes) -> None:
    letter = key[:1]
    if letter == ACCOUNT:
        account = decode(Account, value)
        books.balances += account.balance
        books.maturing += account.maturing_amount
    elif letter == CHANNEL:
        channel = decode(Channel, value)
        books.channels += channel.deposit - channel.settled
    elif letter == REGISTRATION:
        books.collateral += decode(Registration, value).collateral
    elif letter == STAKE:
        stake = decode(Stake, value)
        books.stake += stake.bonded
        books.unbonding += stake.unbonding_amount
    elif key == TOTALS_KEY:
        totals = decode(Totals, value)
        books.genesis += totals.genesis
        books.minted += totals.minted
        books.burned += totals.burned


def _count_packets(tree: BlockTree, src: ShardId) -> int:
    """Return the atoms in packets of `src` that are not consumed yet."""
    heads = tree.final.heads
    total = 0
    for dst, head in heads.items():
        first = get_count(head.in_cursor, src)
        for seq in range(first, get_count(heads[src].out_count, dst)):
            stored = tree.store.get_packet(src, dst, seq)
            if stored is None:
                raise StoreError(f"packet {src}->{dst} number {seq} is missing")
            total += stored.proof.packet.amount
    return total

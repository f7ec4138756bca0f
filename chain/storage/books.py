"""
A shard's books: where its atoms are, kept up to date with every final block.

    balances + maturing + stake + unbonding + collateral + channels + burned + away
        = genesis + minted

`away` is what went to other shards in packets, less what came from them; it is negative
where more came.  So every shard balances by itself, and a node that follows one shard
can check it; over all shards `away` sums up to the packets that are under way.

A block changes the books by the records that it changed, so they cost little and can be
had for every height; `chain/checks/conservation.py` counts anew.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from chain.errors import StoreError
from chain.execution.chunk_run import ChunkResult
from chain.ledger.ledger import Totals
from chain.ledger.stake import Stake
from chain.records.account import Account
from chain.records.channel import Channel
from chain.records.keys import (
    TOTALS_KEY,
    build_account_key,
    build_channel_key,
    build_registration_key,
    build_stake_key,
)
from chain.records.registration import Registration
from chain.state.bucket_cache import Place
from chain.storage.final_state import FinalState
from chain.storage.history import Executed
from chain.storage.store import build_key
from primitives.buckets import Bucket, decode_bucket
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.types import Amount, Height, ShardId
from shards.layout import ROOT_SHARD

ACCOUNT, CHANNEL = build_account_key(b""), build_channel_key(b"")
REGISTRATION, STAKE = build_registration_key(b""), build_stake_key(b"")

_decode_account = msgspec.msgpack.Decoder(Account).decode
# Nine changes in ten are accounts, and these bytes are our own: no second look.


class Books(Record):
    """Atoms of one shard or of several after a block, by where they are."""

    balances: Amount = 0
    maturing: Amount = 0
    stake: Amount = 0
    """Bonded."""
    unbonding: Amount = 0
    collateral: Amount = 0
    channels: Amount = 0
    """Deposits that are neither settled nor refunded."""
    away: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] = 0
    """In packets to other shards, less those that came from them; for all shards
    together, in packets that are under way."""
    burned: Amount = 0
    genesis: Amount = 0
    minted: Amount = 0

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
            + self.away
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


class Counted(Executed, Protocol):
    """A block with all that changes books; `chain.execution.held.HeldBlock` is one."""

    @property
    def results(self) -> Mapping[ShardId, ChunkResult]:
        """What its chunks brought about."""


def build_books_key(shard: ShardId, height: Height) -> bytes:
    """Return the database key of a shard's books after a block that changed them."""
    return build_key(b"J", (shard, 2), (height, 8))


def get_books(state: FinalState, shard: ShardId, height: Height) -> Books | None:
    """Return a shard's books after a final block; None: from before our history.

    Raises:
        StoreError: Damaged.
    """
    prefix, key = build_key(b"J", (shard, 2)), build_books_key(shard, height)
    for _, data in state.store.iterate(prefix, start=key, reverse=True):
        try:
            return decode(Books, data)
        except DecodeError as error:
            raise StoreError(f"damaged books of shard {shard}: {error}") from error
    return None


def add_books(left: Books, right: Books) -> Books:
    """Return the books of both together."""
    names = Books.__struct_fields__
    return Books(**{n: getattr(left, n) + getattr(right, n) for n in names})


def count_books(buckets: Iterable[Bucket], away: int) -> Books:
    """Return a shard's books by counting all of its state.

    Args:
        buckets: All of them.
        away: Which its state does not tell.
    """
    amounts = msgspec.structs.asdict(Books(away=away))
    for bucket in buckets:
        for key, value in bucket.items():
            _add(amounts, key, value, 1)
    return Books(**amounts)


def balance_books(books: Books) -> Books:
    """Return books with what is away, which the state does not tell.

    That they were balanced, the validators' signatures say.
    """
    away = books.away + books.created - books.held
    return msgspec.structs.replace(books, away=away)


def compute_books_changes(
    state: FinalState, chain: Sequence[Counted]
) -> dict[bytes, bytes | None]:
    """Return the database changes of the books that a chain of blocks changes.

    Args:
        state: After the last final block.
        chain: Its descendants that become final now, oldest first.
    """
    books: dict[ShardId, Books] = {}
    changes: dict[bytes, bytes | None] = {}
    for held in chain:
        places: dict[ShardId, list[Place]] = {}
        for place in held.view.buckets:
            places.setdefault(place[0], []).append(place)
        touched: dict[ShardId, Books] = {}
        for shard, changed in places.items():
            before = books.get(shard) or _load_books(state, shard, held.height - 1)
            touched[shard] = _compute_after(before, held, shard, changed)
        if held.view.shards is not None:
            _close_books(touched, set(state.shards) - set(held.view.shards))
        for shard, after in touched.items():
            changes[build_books_key(shard, held.height)] = encode(after)
        books.update(touched)
    return changes


def compute_genesis_books(
    state: Mapping[ShardId, Mapping[bytes, bytes | None]],
) -> dict[bytes, bytes]:
    """Return the database changes of every shard's books after block 0."""
    return {
        build_books_key(shard, 0): encode(
            count_books(
                [{key: value for key, value in pairs.items() if value is not None}], 0
            )
        )
        for shard, pairs in state.items()
    }


def _load_books(state: FinalState, shard: ShardId, height: Height) -> Books:
    """Return a shard's books after the final block, counting where there are none.

    That is so after a snapshot.  It does not tell what is away, but the validators'
    signatures say that the books were balanced.
    """
    found = get_books(state, shard, height)
    if found is not None:
        return found
    buckets = (decode_bucket(data) for _, data, _ in state.iterate_buckets(shard))
    return balance_books(count_books(buckets, 0))


def _compute_after(
    before: Books, held: Counted, shard: ShardId, places: Iterable[Place]
) -> Books:
    amounts = msgspec.structs.asdict(before)
    view = held.view
    for place in places:
        old = decode_bucket(view.parent.get_bucket_bytes(*place))
        _add_bucket(amounts, old, view.buckets[place].pairs)
    result = held.results.get(shard)
    if result is not None:
        amounts["away"] += sum(packet.amount for packet in result.emitted)
        amounts["away"] -= sum(proof.packet.amount for proof in result.consumed)
    return Books(**amounts)


def _close_books(books: dict[ShardId, Books], gone: Iterable[ShardId]) -> None:
    """Let the root shard inherit what shards that are gone sent away.

    Their state is empty, and what they ever minted and burned is counted there now.
    """
    gone = set(gone)
    for shard in gone & books.keys():
        root, left = books[ROOT_SHARD], books[shard]
        inherited = msgspec.structs.replace(root, away=root.away + left.away)
        books[ROOT_SHARD] = inherited
        books[shard] = msgspec.structs.replace(left, away=0)
    if gone - books.keys():
        # Not followed: what the root shard inherits of them is what it then lacks.
        books[ROOT_SHARD] = balance_books(books[ROOT_SHARD])


def _add_bucket(amounts: dict[str, int], before: Bucket, after: Bucket) -> None:
    for key, value in after.items():
        old = before.get(key)
        if old != value:
            _add(amounts, key, value, 1)
            if old is not None:
                _add(amounts, key, old, -1)
    for key, value in before.items():
        if key not in after:
            _add(amounts, key, value, -1)


def _add(amounts: dict[str, int], key: bytes, value: bytes, sign: int) -> None:
    letter = key[:1]
    if letter == ACCOUNT:
        account = _decode_account(value)
        amounts["balances"] += sign * account.balance
        if account.maturing:
            amounts["maturing"] += sign * account.maturing_amount
    elif letter == CHANNEL:
        channel = decode(Channel, value)
        amounts["channels"] += sign * (channel.deposit - channel.settled)
    elif letter == REGISTRATION:
        amounts["collateral"] += sign * decode(Registration, value).collateral
    elif letter == STAKE:
        stake = decode(Stake, value)
        amounts["stake"] += sign * stake.bonded
        amounts["unbonding"] += sign * stake.unbonding_amount
    elif key == TOTALS_KEY:
        totals = decode(Totals, value)
        amounts["genesis"] += sign * totals.genesis
        amounts["minted"] += sign * totals.minted
        amounts["burned"] += sign * totals.burned

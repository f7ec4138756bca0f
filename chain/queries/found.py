"""What reads over the final chain return."""

from dataclasses import dataclass

from chain.ledger.ledger import Totals
from chain.records.account import NO_ACCOUNT, Account, compute_ripe
from chain.records.block import Block
from chain.records.outcome import Outcome
from chain.records.proof import WorkEntry
from chain.records.transaction import SignedTransaction
from consensus.messages import Certificate
from primitives.codec import decode
from primitives.types import Height, ShardId
from shards.chunk import Chunk, ChunkHeader
from shards.layout import ShardSpec


@dataclass(frozen=True, slots=True)
class FoundBlock:
    """A final block and what makes it so."""

    height: Height
    block_hash: bytes
    block: Block
    certificate: Certificate | None
    """Its own or the next descendant's; None for genesis alone."""
    length: int
    """Bytes."""
    transactions: int
    """In all its chunks."""


@dataclass(frozen=True, slots=True)
class FoundTransaction:
    """A final transaction, where it stands, and what it did."""

    tx_id: bytes
    signed: SignedTransaction
    height: Height
    block_hash: bytes
    time_ms: int
    shard: ShardId
    index: int
    """Place in its chunk."""
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """An account in one shard."""

    shard: ShardId
    address: bytes
    balance: int
    """Atoms that can be spent now."""
    maturing: int
    """Atoms from settlements that cannot be spent yet."""
    nonce: int
    height: Height
    """Of the final block after which it is so."""


@dataclass(frozen=True, slots=True)
class FoundShard:
    """A shard as of the final block."""

    shard_id: ShardId
    spec: ShardSpec | None
    """Its layers; None for the root shard."""
    head: ChunkHeader
    """Its newest chunk; the genesis one if there was none yet."""
    head_height: Height
    """Height of the block that holds it."""
    backlog: tuple[tuple[ShardId, int], ...]
    """Packets that wait for this shard, by source."""
    totals: Totals | None
    """None where its state is not here."""


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A shard's chunk and its block."""

    height: Height
    block_hash: bytes
    chunk: Chunk
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class FoundWork:
    """A posted work record."""

    height: Height
    """Of the block that holds the settlement."""
    shard: ShardId
    tx_id: bytes
    """The settlement."""
    entry: WorkEntry


def read_account(
    shard: ShardId, address: bytes, data: bytes | None, height: Height
) -> FoundAccount:
    """Return the account that a shard's state holds after a block.

    Args:
        shard: Which.
        address: Whose.
        data: What is under the account's key; None: it was never used.
        height: Of the block.
    """
    account = NO_ACCOUNT if data is None else decode(Account, data)
    account = compute_ripe(account, height)
    maturing = account.maturing_amount
    return FoundAccount(
        shard, address, account.balance, maturing, account.nonce, height
    )

"""The chain's parameters: constant for a network, part of its genesis."""

from primitives.codec import Record
from primitives.types import U8, U32, Amount, Height


class ChainParams(Record):
    """Numbers that rules and block validity depend on."""

    base_fee: Amount
    """Atoms per byte and per unit of work."""
    block_bytes: U32
    """Longest block, at most `chain.records.block.MAX_BLOCK_BYTES`."""
    block_work: U32
    """Work units in a block; one is about a microsecond of one core.

    A transfer is 150 units and takes 60 to 100 us with its signature."""
    chunk_transactions: U32
    """Transactions in one chunk."""
    chunk_packets: U32
    """Packets that one chunk consumes."""
    bucket_levels: U8
    """Levels of the 4-ary tree over a shard's buckets; 4^levels buckets."""
    backlog_limit: U32
    """Packets waiting for one destination from which on no transaction may add one."""
    max_drift_ms: U32
    """How far ahead of our clock a block's time may be."""
    maturity_blocks: U32
    """Blocks between a settlement and its amount in the balance."""
    grace_blocks: U32
    """Blocks between the payer's request to close a channel and its withdrawal."""
    collateral_tickets: U32
    """Collateral covers that many of the node's own dearest tickets."""
    ticket_tokens: U32
    """Tokens of one receipt: a ticket is price x layers x this."""
    shard_mirrors: U32
    """Mirrored registrations that one shard keeps."""
    validity_blocks: Height
    """How far ahead `valid_until_height` may lie."""
    epoch_blocks: U32
    """L: blocks in an epoch, at least 2."""
    unbonding_epochs: U32
    """Epochs between an Unbond and its payout; evidence must reach it in time."""
    evidence_epochs: U32
    """Epochs for which the votes of an epoch can still be punished."""
    min_stake: Amount
    """Atoms below which a stake is no validator."""
    epoch_reward: Amount
    """Atoms that an epoch mints if everybody attends every block."""

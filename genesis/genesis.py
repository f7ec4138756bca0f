"""
Genesis: everything that a network agreed on before its first block.

Its hash is the chain id, so two networks that differ in anything here never take
each other's transactions or votes.

Spec: docs/protocol/03-blocks-and-state.md
"""

from chain.records.model import ModelRecord, Name
from chain.records.params import ChainParams
from consensus.params import ConsensusParams
from consensus.validators import Power
from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.types import (
    Address,
    Amount,
    BlsPublicKey,
    BlsSignature,
    ShardId,
    TimeMs,
)
from shards.layout import Layout


class GenesisParams(Record):
    """The parameters of every package that has some."""

    chain: ChainParams
    consensus: ConsensusParams


class GenesisValidator(Record):
    """A validator of the first set; its index is its place in the list."""

    name: Name
    account: Address
    """Owns the stake."""
    public_key: BlsPublicKey
    proof_of_possession: BlsSignature
    """Without it a key could be chosen that cancels the others out."""
    power: Power
    """Atoms staked in the root shard, besides any allocation."""


class Allocation(Record):
    """A first balance."""

    address: Address
    shard: ShardId
    amount: Amount
    """Atoms."""


class Genesis(Record):
    """The first state of a network and its constants."""

    network: Name
    """What people call the network."""
    time_ms: TimeMs
    """Time of block 0."""
    params: GenesisParams
    models: tuple[ModelRecord, ...]
    layout: Layout
    validators: tuple[GenesisValidator, ...]
    allocations: tuple[Allocation, ...]


def compute_chain_id(genesis: Genesis) -> bytes:
    """Return the 32-byte name of the chain that starts with this genesis."""
    return compute_hash("genesis", encode(genesis))

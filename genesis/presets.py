"""Ready-made parameters, and the genesis of a devnet."""

from collections.abc import Mapping, Sequence

from chain.records.block import MAX_BLOCK_BYTES
from chain.records.model import ModelRecord
from chain.records.params import ChainParams
from consensus.params import DEVNET
from genesis.genesis import (
    Allocation,
    Genesis,
    GenesisParams,
    GenesisValidator,
)
from primitives.types import ATOMS_PER_COIN
from shards.layout import Layout, ShardSpec, cut_layers

DEVNET_CHAIN_PARAMS = ChainParams(
    base_fee=10,
    block_bytes=MAX_BLOCK_BYTES,
    # Built and verified within beta, 500 ms, on one core of a slow machine.
    block_work=400_000,
    chunk_transactions=4096,
    chunk_packets=1024,
    # Full size from the start: four keys a bucket at a million keys a shard.
    bucket_levels=9,
    backlog_limit=1024,
    max_drift_ms=1000,
    # No audits yet, so there is nothing to wait for.
    maturity_blocks=0,
    # Fifteen minutes of blocks of one second.
    grace_blocks=900,
    # At an audit rate of 1 %; see docs/protocol/06-shards.md.
    collateral_tickets=550,
    ticket_tokens=16,
    # About 1 MB of state per shard.
    shard_mirrors=4096,
    # An hour: longer than any outage after which people still wait.
    validity_blocks=3600,
    # A minute: a set changes within three.
    epoch_blocks=60,
    # Twenty minutes, twice the age of evidence and the epochs until a leaver is out.
    unbonding_epochs=20,
    evidence_epochs=10,
    min_stake=ATOMS_PER_COIN,
    # A coin per block.
    epoch_reward=60 * ATOMS_PER_COIN,
)

DEVNET_PARAMS = GenesisParams(chain=DEVNET_CHAIN_PARAMS, consensus=DEVNET)

DEVNET_SHARDS_PER_MODEL = 2
"""Two hosts of a quarter each per shard, with four validators."""


def build_layout(models: Sequence[ModelRecord], shards_per_model: int) -> Layout:
    """Return the layout that cuts every model into as many shards of equal size.

    Models with fewer layers than that get one shard per layer.
    """
    specs: list[ShardSpec] = []
    for model in models:
        count = min(shards_per_model, model.layers)
        for start, end in cut_layers(model.layers, count):
            specs.append(
                ShardSpec(len(specs) + 1, model.model_id, start, end, 0, False)
            )
    return Layout(tuple(specs))


def build_devnet_genesis(
    *,
    validators: Sequence[GenesisValidator],
    models: Sequence[ModelRecord],
    balances: Mapping[bytes, int],
    time_ms: int,
    network: str = "devnet",
    shards_per_model: int = DEVNET_SHARDS_PER_MODEL,
    params: GenesisParams = DEVNET_PARAMS,
    shard_balances: Mapping[tuple[bytes, int], int] | None = None,
) -> Genesis:
    """Return the genesis of a network on one machine.

    Args:
        validators: The first set, in order.
        models: What can be registered for.
        balances: Atoms in the root shard by address.
        time_ms: Now; blocks follow it.
        network: Its name.
        shards_per_model: Into how many shards each model is cut.
        params: Of the network.
        shard_balances: Atoms by (address, shard), besides those in the root shard.
    """
    places = {(address, 0): amount for address, amount in balances.items()}
    for place, amount in (shard_balances or {}).items():
        places[place] = places.get(place, 0) + amount
    allocations = tuple(
        Allocation(address, shard, amount)
        for (address, shard), amount in sorted(places.items())
        if amount > 0
    )
    return Genesis(
        network=network,
        time_ms=time_ms,
        params=params,
        models=tuple(models),
        layout=build_layout(models, shards_per_model),
        validators=tuple(validators),
        allocations=allocations,
    )

"""
The genesis of a simulated real chain: four or more stakes, some people, one model.

Everything is as small and as short as genesis allows, so that epochs, payouts, splits
and full backlogs happen within a minute.
"""

from functools import cache

import msgspec

from chain.records.model import ModelRecord, compute_model_id
from chain.records.spec import ChainSpec
from genesis.genesis import Genesis, GenesisParams, GenesisValidator
from genesis.presets import DEVNET_PARAMS, build_devnet_genesis
from genesis.state import build_chain_spec
from p2pchain.sim.chains.list_blocks import GENESIS_TIME_MS
from p2pchain.sim.signatures import make_real_key
from primitives.keys import SecretKey

COIN = 10**9
STAKE = 1000 * COIN
SHARDS = (0, 1, 2)
PEOPLE = 4
"""Accounts without a stake that pay each other."""
BUCKET_LEVELS = 2
"""Sixteen buckets per shard: a tree is built at every restart."""
EVIDENCE_EPOCHS = 2
UNBONDING_EPOCHS = 7
"""As few as genesis allows, so that payouts happen."""
GRACE_BLOCKS = 6
"""In which a retiring shard drains."""
BACKLOG_LIMIT = 20
"""Low enough that a shard which stands still is congested."""


def build_model(number: int) -> ModelRecord:
    """Return one of the models that there may be; 0 is there from genesis."""
    weights, tokenizer = bytes([2 * number + 1]) * 32, bytes([2 * number + 2]) * 32
    return ModelRecord(
        model_id=compute_model_id(weights, tokenizer),
        name=f"toy {number}",
        architecture="llama",
        layers=8 - number % 4,
        hidden_size=128,
        vocab_size=1024,
        dtype="float32",
        weights_root=weights,
        tokenizer_hash=tokenizer,
        min_collateral=COIN,
    )


@cache
def get_account(name: str) -> SecretKey:
    """Return the account of a node or of one of the people, by name."""
    return SecretKey(name.encode().ljust(32, b"."))


@cache
def build_spec(names: str, everybody: str, epoch_blocks: int) -> ChainSpec:
    """Return the chain of a network.

    Args:
        names: Validators of the first set, one letter each.
        everybody: And all other nodes.
        epoch_blocks: Length of an epoch.
    """
    validators = [_build_validator(name) for name in names]
    accounts = [*everybody, *(f"p{number}" for number in range(PEOPLE))]
    chain = msgspec.structs.replace(
        DEVNET_PARAMS.chain,
        bucket_levels=BUCKET_LEVELS,
        epoch_blocks=epoch_blocks,
        evidence_epochs=EVIDENCE_EPOCHS,
        unbonding_epochs=UNBONDING_EPOCHS,
        grace_blocks=GRACE_BLOCKS,
        backlog_limit=BACKLOG_LIMIT,
    )
    genesis: Genesis = build_devnet_genesis(
        validators=validators,
        models=[build_model(0)],
        balances={get_account(name).public_key: 2 * STAKE for name in accounts},
        shard_balances={
            (get_account(name).public_key, shard): 100 * COIN
            for name in accounts
            for shard in SHARDS[1:]
        },
        time_ms=GENESIS_TIME_MS,
        params=GenesisParams(chain=chain, consensus=DEVNET_PARAMS.consensus),
    )
    return build_chain_spec(genesis)


def _build_validator(name: str) -> GenesisValidator:
    key = make_real_key(repr(name))
    return GenesisValidator(
        name=f"validator-{name}",
        account=get_account(name).public_key,
        public_key=key.public_key,
        proof_of_possession=key.prove_possession(),
        power=STAKE,
    )

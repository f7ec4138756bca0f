"""From a genesis to the constants and the first state of its chain."""

from chain.account import Account
from chain.keys import (
    TOTALS_KEY,
    build_account_key,
    build_model_key,
    build_stake_key,
)
from chain.ledger import Totals
from chain.spec import ChainSpec
from chain.stake import Stake
from consensus.validators import Validator, ValidatorSet
from genesis.genesis import Genesis, compute_chain_id
from genesis.validation import validate_genesis
from primitives.codec import encode
from primitives.types import ShardId
from shards.layout import ROOT_SHARD


def build_chain_spec(genesis: Genesis) -> ChainSpec:
    """Return what the chain needs to know of a genesis.

    Raises:
        CorruptGenesis: The genesis cannot start a chain.
    """
    validate_genesis(genesis)
    return ChainSpec(
        chain_id=compute_chain_id(genesis),
        params=genesis.params.chain,
        validators=build_validator_set(genesis),
        layout=genesis.layout,
        models={model.model_id: model for model in genesis.models},
        time_ms=genesis.time_ms,
        state=build_genesis_state(genesis),
    )


def build_validator_set(genesis: Genesis) -> ValidatorSet:
    """Return the voters of epoch 0."""
    return ValidatorSet(
        tuple(
            Validator(validator.public_key, validator.power)
            for validator in genesis.validators
        )
    )


def build_genesis_state(genesis: Genesis) -> dict[ShardId, dict[bytes, bytes]]:
    """Return the first value bytes by key, by shard."""
    state: dict[ShardId, dict[bytes, bytes]] = {
        shard: {} for shard in genesis.layout.shard_ids
    }
    supply = dict.fromkeys(state, 0)
    for entry in genesis.allocations:
        account = Account(balance=entry.amount, nonce=0, maturing=())
        state[entry.shard][build_account_key(entry.address)] = encode(account)
        supply[entry.shard] += entry.amount
    root = state[ROOT_SHARD]
    for index, validator in enumerate(genesis.validators):
        stake = Stake(
            name=validator.name,
            account=validator.account,
            public_key=validator.public_key,
            amount=validator.power,
        )
        root[build_stake_key(index)] = encode(stake)
        supply[ROOT_SHARD] += validator.power
    for model in genesis.models:
        root[build_model_key(model.model_id)] = encode(model)
    for shard, atoms in supply.items():
        totals = Totals(genesis=atoms, minted=0, burned=0)
        state[shard][TOTALS_KEY] = encode(totals)
    return state

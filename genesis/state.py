"""From a genesis to the constants and the first state of its chain."""

from chain.ledger.ledger import Totals
from chain.ledger.stake import EpochRecord, Roster, Stake, StakeKey, StakeStatus
from chain.records.account import Account
from chain.records.keys import (
    EPOCH_KEY,
    ROSTER_KEY,
    TOTALS_KEY,
    build_account_key,
    build_layout_key,
    build_model_key,
    build_producers_key,
    build_stake_key,
    build_validators_key,
    build_voter_key,
)
from chain.records.spec import ChainSpec
from consensus.leader import compute_first_seed
from consensus.validators import Validator, ValidatorSet
from genesis.genesis import Genesis, compute_chain_id
from genesis.validation import validate_genesis
from primitives.codec import encode
from primitives.types import ShardId
from shards.layout import ROOT_SHARD
from shards.producers import choose_producers


def build_chain_spec(genesis: Genesis) -> ChainSpec:
    """Return what the chain needs to know of a genesis.

    Raises:
        CorruptGenesis: The genesis cannot start a chain.
    """
    validate_genesis(genesis)
    return ChainSpec(
        chain_id=compute_chain_id(genesis),
        params=genesis.params.chain,
        first_validators=build_validator_set(genesis),
        first_layout=genesis.layout,
        time_ms=genesis.time_ms,
        state=build_genesis_state(genesis),
    )


def build_validator_set(genesis: Genesis) -> ValidatorSet:
    """Return the voters of epochs 0 and 1."""
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
    root.update(_build_stakes(genesis))
    supply[ROOT_SHARD] += sum(validator.power for validator in genesis.validators)
    for model in genesis.models:
        root[build_model_key(model.model_id)] = encode(model)
    for epoch in (0, 1):
        root[build_layout_key(epoch)] = encode(genesis.layout)
    for shard, atoms in supply.items():
        totals = Totals(genesis=atoms, minted=0, burned=0)
        state[shard][TOTALS_KEY] = encode(totals)
    return state


def _build_stakes(genesis: Genesis) -> dict[bytes, bytes]:
    """Return stakes, roster, and the first two epochs, which are alike.

    Nobody hosts anything yet, so custodians produce.
    """
    seed = compute_first_seed(compute_chain_id(genesis))
    validators = encode(build_validator_set(genesis))
    producers = choose_producers(
        seed,
        [spec.shard_id for spec in genesis.layout.shards],
        [validator.power for validator in genesis.validators],
        {},
    )
    accounts = tuple(sorted(validator.account for validator in genesis.validators))
    pairs = {
        ROSTER_KEY: encode(Roster(accounts)),
        EPOCH_KEY: encode(EpochRecord(epoch=0, seed=seed, next_seed=seed)),
        build_validators_key(0): validators,
        build_validators_key(1): validators,
        build_producers_key(0): encode(producers),
        build_producers_key(1): encode(producers),
    }
    for validator in genesis.validators:
        stake = Stake(
            name=validator.name,
            account=validator.account,
            public_key=validator.public_key,
            bonded=validator.power,
            unbonding=(),
            status=StakeStatus.ACTIVE,
            rewarded=0,
            slashed=0,
            offence=None,
        )
        pairs[build_stake_key(validator.account)] = encode(stake)
        key = encode(StakeKey(validator.account))
        pairs[build_voter_key(validator.public_key)] = key
    return pairs

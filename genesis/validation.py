"""What makes a genesis one that can start a chain."""

from collections.abc import Iterable

from chain.contracts.bond import MAX_BONDED
from chain.ledger.ledger import MAX_AMOUNT, MAX_MINTED
from chain.records.block import MAX_BLOCK_BYTES
from chain.records.model import compute_model_id
from chain.records.params import ChainParams
from consensus.validators import MAX_VALIDATORS
from genesis.errors import CorruptGenesis
from genesis.genesis import Genesis
from primitives.bls import verify_possession
from primitives.buckets import MAX_LEVELS
from shards.errors import InvalidLayout
from shards.layout import validate_layout

MAX_EVIDENCE_EPOCHS = 64
"""The state keeps the validator sets of so many epochs, up to 8 KiB each."""

MIN_BLOCK_BYTES = 256 * 1024
"""Headers and certificates of as many chunks as there may ever be shards have to fit,
130 kB, and with them the largest transaction."""


def validate_genesis(genesis: Genesis) -> None:
    """Check everything that the types cannot say; a few milliseconds per validator.

    Raises:
        CorruptGenesis: The first thing that is wrong.
    """
    _validate_params(genesis)
    _validate_models(genesis)
    _validate_validators(genesis)
    _validate_allocations(genesis)


def _validate_params(genesis: Genesis) -> None:
    params = genesis.params.chain
    if not 1 <= params.bucket_levels <= MAX_LEVELS:
        raise CorruptGenesis(f"bucket_levels is {params.bucket_levels}, not 1 to 9")
    if not MIN_BLOCK_BYTES <= params.block_bytes <= MAX_BLOCK_BYTES:
        raise CorruptGenesis(
            f"block_bytes is {params.block_bytes}, "
            f"not {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}"
        )
    for name in (
        "block_work",
        "chunk_transactions",
        "chunk_packets",
        "backlog_limit",
        "validity_blocks",
    ):
        if getattr(params, name) == 0:
            raise CorruptGenesis(f"{name} is 0, so nothing could ever happen")
    _validate_epochs(params)


def _validate_epochs(params: ChainParams) -> None:
    if params.epoch_blocks < 2:
        raise CorruptGenesis("epoch_blocks is below 2: nobody's votes would be counted")
    if not 1 <= params.evidence_epochs <= MAX_EVIDENCE_EPOCHS:
        raise CorruptGenesis(
            f"evidence_epochs is {params.evidence_epochs}, not 1 to "
            f"{MAX_EVIDENCE_EPOCHS}"
        )
    # Who unbonds in epoch e votes until e + 2, can be convicted evidence_epochs later,
    # and the last evidence needs a block that comes before the payout.
    if params.unbonding_epochs <= params.evidence_epochs + 4:
        raise CorruptGenesis(
            f"unbonding_epochs is {params.unbonding_epochs}, not above "
            f"evidence_epochs + 4, which is {params.evidence_epochs + 4}"
        )
    if not 1 <= params.min_stake <= MAX_BONDED:
        raise CorruptGenesis(f"min_stake is {params.min_stake}, not 1 to 2^56 - 1")


def _validate_models(genesis: Genesis) -> None:
    _validate_unique("model name", (model.name for model in genesis.models))
    _validate_unique("model_id", (model.model_id for model in genesis.models))
    layers = {}
    for model in genesis.models:
        expected = compute_model_id(model.weights_root, model.tokenizer_hash)
        if model.model_id != expected:
            raise CorruptGenesis(
                f"model {model.name}: model_id is not the hash of its roots"
            )
        if model.layers == 0:
            raise CorruptGenesis(f"model {model.name} has no layers")
        layers[model.model_id] = model.layers
    try:
        validate_layout(genesis.layout)
    except InvalidLayout as error:
        raise CorruptGenesis(f"layout: {error}") from error
    covered: dict[bytes, int] = {}
    for spec in genesis.layout.shards:
        if spec.model_id not in layers:
            raise CorruptGenesis(f"shard {spec.shard_id} is of an unknown model")
        if spec.changed_epoch or spec.is_retiring:
            raise CorruptGenesis(f"shard {spec.shard_id} has changed already")
        covered[spec.model_id] = max(covered.get(spec.model_id, 0), spec.end)
    for model in genesis.models:
        if covered.get(model.model_id) != model.layers:
            raise CorruptGenesis(
                f"model {model.name} has {model.layers} layers, "
                f"its shards hold {covered.get(model.model_id, 0)}"
            )


def _validate_validators(genesis: Genesis) -> None:
    validators = genesis.validators
    if not 1 <= len(validators) <= MAX_VALIDATORS:
        raise CorruptGenesis(f"{len(validators)} validators, not 1 to {MAX_VALIDATORS}")
    _validate_unique("validator name", (v.name for v in validators))
    _validate_unique("validator key", (v.public_key for v in validators))
    _validate_unique("validator account", (v.account for v in validators))
    min_stake = genesis.params.chain.min_stake
    total = sum(validator.power for validator in validators)
    for validator in validators:
        # 3f < W: with four or more, no single one may stop or fork the chain.
        if len(validators) >= 4 and 3 * validator.power >= total:
            raise CorruptGenesis(
                f"validator {validator.name} holds {validator.power} of {total}, "
                "a third or more"
            )
        if validator.power < min_stake:
            raise CorruptGenesis(
                f"validator {validator.name} stakes {validator.power} < {min_stake}"
            )
        if not verify_possession(validator.public_key, validator.proof_of_possession):
            raise CorruptGenesis(
                f"validator {validator.name}: the proof of possession does not verify"
            )


def _validate_allocations(genesis: Genesis) -> None:
    shards = set(genesis.layout.shard_ids)
    places = [(entry.address, entry.shard) for entry in genesis.allocations]
    _validate_unique("allocation", places)
    for entry in genesis.allocations:
        if entry.shard not in shards:
            raise CorruptGenesis(f"an allocation in shard {entry.shard}, not in layout")
    total = sum(entry.amount for entry in genesis.allocations)
    total += sum(validator.power for validator in genesis.validators)
    # With all that is ever minted it fits 63 bits, so no balance ever overflows.
    if total > MAX_AMOUNT - MAX_MINTED:
        raise CorruptGenesis(f"a supply of {total} atoms does not fit 62 bits")


def _validate_unique(what: str, values: Iterable[object]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            shown = value.hex() if isinstance(value, bytes) else value
            raise CorruptGenesis(f"{what} twice: {shown}")
        seen.add(value)

"""Which final block an answer is about, and names for people."""

from functools import lru_cache
from typing import Any

from chain.queries.found import FoundBlock
from chain.queries.queries import Queries
from genesis.genesis import Genesis
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import to_hex

Json = dict[str, Any]

CACHED_EPOCHS = 64
"""Of names; a page of blocks shows one or two."""


def build_stamp(backend: Backend) -> Json:
    """Return height and hash of the last final block."""
    block = find_block(backend, None)
    return build_block_stamp(block)


def build_block_stamp(block: FoundBlock) -> Json:
    """Return height and hash of a final block."""
    return {
        "height": str(block.height),
        "block_hash": to_hex(block.block_hash),
        "final": True,
    }


def find_block(backend: Backend, name: int | bytes | None) -> FoundBlock:
    """Return a final block by height or hash, without a name the last one.

    Raises:
        NotFound: There is none; says how far the chain is.
    """
    block = backend.queries.get_block(name)
    if block is None:
        shown = to_hex(name) if isinstance(name, bytes) else name
        raise NotFound(
            f"no final block {shown}; the last one is {backend.queries.height}"
        )
    return block


def get_validator_names(backend: Backend, epoch: int) -> tuple[str | None, ...]:
    """Return what people call an epoch's validators, by index.

    A validator that left altogether has no name any more, unless genesis gave it one.
    """
    queries = backend.queries
    return _find_names(queries, backend.genesis, epoch, queries.stakes.record.epoch)


@lru_cache(maxsize=CACHED_EPOCHS)
def _find_names(
    queries: Queries, genesis: Genesis, epoch: int, running_epoch: int
) -> tuple[str | None, ...]:
    """Return names as of the running epoch; a page asks for the same ones often."""
    validators = queries.stakes.get_validators(epoch)
    if validators is None:
        return ()
    first = {validator.public_key: validator.name for validator in genesis.validators}
    names = []
    for validator in validators.validators:
        stake = queries.stakes.find_stake(validator.public_key)
        name = first.get(validator.public_key) if stake is None else stake.name
        names.append(name)
    return tuple(names)


def get_name(names: tuple[str | None, ...], index: int) -> str | None:
    """Return a validator's name, if it is known."""
    return names[index] if index < len(names) else None


def get_account_name(backend: Backend, account: bytes) -> str | None:
    """Return what people call the validator with this account."""
    stake = backend.queries.stakes.get_stake(account)
    if stake is not None:
        return stake.name
    for validator in backend.genesis.validators:
        if validator.account == account:
            return validator.name
    return None


def get_model_name(backend: Backend, model_id: bytes) -> str | None:
    """Return a model's name."""
    for model in backend.queries.market.list_models():
        if model.model_id == model_id:
            return model.name
    return None

"""Which final block an answer is about, and names for people."""

from typing import Any

from chain.queries import FoundBlock
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import to_hex

Json = dict[str, Any]


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


def get_validator_name(backend: Backend, index: int) -> str | None:
    """Return what genesis calls a validator."""
    validators = backend.genesis.validators
    return validators[index].name if index < len(validators) else None


def get_account_name(backend: Backend, account: bytes) -> str | None:
    """Return what genesis calls the validator with this account."""
    for validator in backend.genesis.validators:
        if validator.account == account:
            return validator.name
    return None


def get_model_name(backend: Backend, model_id: bytes) -> str | None:
    """Return a model's name."""
    for model in backend.genesis.models:
        if model.model_id == model_id:
            return model.name
    return None

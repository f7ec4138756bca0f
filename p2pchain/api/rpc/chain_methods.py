"""Methods that read the final chain."""

from typing import Any

from p2pchain.api.backend import Backend
from p2pchain.api.errors import InvalidParams
from p2pchain.api.params import (
    ADDRESS,
    BLOCK,
    FLAG,
    HASH,
    HEIGHT,
    LIMIT,
    TEXT,
    Param,
)
from p2pchain.api.rpc.method import Method
from p2pchain.api.views import accounts, blocks, providers, transactions

Json = dict[str, Any]


async def get_block(
    backend: Backend, height: int | bytes | None, hash: bytes | None
) -> Json:
    """Return a block by height or hash; without either the last final one."""
    if height is not None and hash is not None:
        raise InvalidParams("give height or hash, not both", param="hash")
    return blocks.build_block(backend, hash if height is None else height)


async def get_block_by_hash(backend: Backend, hash: bytes) -> Json:
    """Return a block by its hash."""
    return blocks.build_block(backend, hash)


async def get_header(backend: Backend, height: int | bytes | None) -> Json:
    """Return a block's header."""
    return blocks.build_header(backend, height)


async def get_commit(backend: Backend, height: int | bytes | None) -> Json:
    """Return the certificate that made a block final."""
    return blocks.build_commit(backend, height)


async def list_blocks(backend: Backend, limit: int, after: str | None) -> Json:
    """Return blocks, newest first."""
    return blocks.build_block_list(backend, limit, after)


async def get_transaction(backend: Backend, hash: bytes) -> Json:
    """Return a transaction with its outcome, or one that waits."""
    return transactions.build_transaction(backend, hash)


async def get_account(backend: Backend, address: bytes, prove: bool) -> Json:
    """Return what an address holds in every shard."""
    return await accounts.build_account(backend, address, prove)


async def list_account_transactions(
    backend: Backend, address: bytes, limit: int, after: str | None
) -> Json:
    """Return an address's transactions, newest first."""
    return transactions.build_history(backend, address, limit, after)


async def get_channel(backend: Backend, channel_id: bytes, prove: bool) -> Json:
    """Return a channel, also one that was closed."""
    return accounts.build_channel(backend, channel_id, prove)


async def list_channels(
    backend: Backend, address: bytes, limit: int, after: str | None
) -> Json:
    """Return an address's channels, newest first."""
    return accounts.build_channels(backend, address, limit, after)


async def list_providers(backend: Backend) -> Json:
    """Return every registration, by layers."""
    return providers.build_providers(backend)


async def get_provider(backend: Backend, address: bytes, prove: bool) -> Json:
    """Return an account's registrations."""
    return providers.build_provider(backend, address, prove)


async def list_work(
    backend: Backend, limit: int, after: str | None, payee: bytes | None
) -> Json:
    """Return posted work records, newest first."""
    return providers.build_work(backend, limit, after, payee)


async def get_supply(backend: Backend, height: int | None) -> Json:
    """Return where all atoms were after a block; the sums must agree."""
    return accounts.build_supply(backend, height)


_HEIGHT = Param("height", BLOCK, "height or hash; the last final block", None)
_STATE_HEIGHT = Param("height", HEIGHT, "of a final block; the last one", None)
_PAGE = (
    Param("limit", LIMIT, "at most 100", 25),
    Param("after", TEXT, "cursor: `next` of the page before", None),
)
_ADDRESS = Param("address", ADDRESS, "account")
_PROVE = Param("prove", FLAG, "add the proofs of the state", False)

METHODS = (
    Method(
        "block",
        "A block by height or hash",
        get_block,
        (_HEIGHT, Param("hash", HASH, "block hash", None)),
    ),
    Method(
        "block_by_hash",
        "A block by its hash",
        get_block_by_hash,
        (Param("hash", HASH, "block hash"),),
    ),
    Method("header", "A block's header", get_header, (_HEIGHT,)),
    Method("commit", "The certificate that made a block final", get_commit, (_HEIGHT,)),
    Method("blocks", "Blocks, newest first", list_blocks, _PAGE),
    Method(
        "tx",
        "A transaction with its outcome",
        get_transaction,
        (Param("hash", HASH, "transaction id"),),
    ),
    Method(
        "account", "What an address holds by shard", get_account, (_ADDRESS, _PROVE)
    ),
    Method(
        "account_txs",
        "An address's transactions, newest first",
        list_account_transactions,
        (_ADDRESS, *_PAGE),
    ),
    Method(
        "channel_get",
        "A payment channel",
        get_channel,
        (Param("channel_id", HASH, "channel"), _PROVE),
    ),
    Method(
        "channel_list",
        "An address's channels, newest first",
        list_channels,
        (_ADDRESS, *_PAGE),
    ),
    Method("provider_list", "Registrations by layers", list_providers),
    Method(
        "provider_get", "An account's registrations", get_provider, (_ADDRESS, _PROVE)
    ),
    Method(
        "work_list",
        "Posted work records, newest first",
        list_work,
        (*_PAGE, Param("payee", ADDRESS, "only this provider's", None)),
    ),
    Method(
        "supply", "Where all atoms were after a block", get_supply, (_STATE_HEIGHT,)
    ),
)

"""
/api/v1: the explorer's reads, in Esplora's shapes where it has one.

Lists have 25 entries a page and a cursor: `next` of one answer is `after` of the next
request, so pages neither shift nor repeat when blocks arrive.  What is final has an
ETag and may be cached for ever; what still moves has an ETag only.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from p2pchain.api.backend import Backend
from p2pchain.api.bridge import Bridge
from p2pchain.api.explorer.openapi import build_openapi
from p2pchain.api.explorer.path import Path
from p2pchain.api.explorer.shard_paths import SHARD_PATHS
from p2pchain.api.http import read_query, respond_cached
from p2pchain.api.params import (
    ADDRESS,
    BLOCK,
    EPOCH,
    FLAG,
    HASH,
    LIMIT,
    TEXT,
    Param,
    bind,
)
from p2pchain.api.render import render_mempool, render_seen_receipt
from p2pchain.api.views import (
    accounts,
    blocks,
    evidence,
    providers,
    search,
    staking,
    stamp,
    transactions,
)

Json = dict[str, Any]

PAGE = 25
MEMPOOL_PAGE = 100


async def get_tip_height(backend: Backend) -> str:
    """Return the last final height, as plain text that is a JSON number too."""
    return str(stamp.build_stamp(backend)["height"])


async def get_tip_hash(backend: Backend) -> str:
    """Return the last final block's hash, as plain text."""
    return str(stamp.build_stamp(backend)["block_hash"])


async def list_blocks(backend: Backend, after: str | None, limit: int) -> Any:
    """Return blocks, newest first."""
    return blocks.build_block_list(backend, limit, after)


async def get_block(backend: Backend, block: int | bytes) -> Any:
    """Return a block."""
    return blocks.build_block(backend, block)


async def list_block_txs(
    backend: Backend, block: int | bytes, after: str | None, limit: int
) -> Any:
    """Return a block's transactions with their outcomes."""
    return transactions.build_block_transactions(backend, block, limit, after)


async def get_tx(backend: Backend, tx_id: bytes) -> Any:
    """Return a final transaction, or one that waits."""
    return transactions.build_transaction(backend, tx_id)


async def get_tx_status(backend: Backend, tx_id: bytes) -> Any:
    """Return whether a transaction is final, waits, or is not known."""
    return transactions.build_transaction_status(backend, tx_id)


async def get_address(backend: Backend, address: bytes, prove: bool) -> Any:
    """Return what an address holds in every shard."""
    return await accounts.build_account(backend, address, prove)


async def list_address_txs(
    backend: Backend, address: bytes, after: str | None, limit: int
) -> Any:
    """Return an address's transactions, newest first."""
    return transactions.build_history(backend, address, limit, after)


async def list_address_events(
    backend: Backend, address: bytes, after: str | None, limit: int
) -> Any:
    """Return rewards, slashes and payouts of an address, newest first."""
    return staking.build_account_events(backend, address, limit, after)


async def get_mempool(backend: Backend) -> Any:
    """Return the oldest waiting transactions."""
    return render_mempool(backend.get_mempool(MEMPOOL_PAGE))


async def list_work(
    backend: Backend, after: str | None, limit: int, payee: bytes | None
) -> Any:
    """Return posted work records, newest first."""
    return providers.build_work(backend, limit, after, payee)


async def list_receipts(backend: Backend, limit: int) -> Any:
    """Return receipts announced by providers, newest first."""
    seen = backend.list_receipts(limit)
    return {"receipts": [render_seen_receipt(receipt) for receipt in seen]}


async def get_channel(backend: Backend, channel_id: bytes, prove: bool) -> Any:
    """Return a channel, also one that was closed."""
    return accounts.build_channel(backend, channel_id, prove)


async def list_channels(
    backend: Backend, address: bytes, after: str | None, limit: int
) -> Any:
    """Return an address's channels, newest first."""
    return accounts.build_channels(backend, address, limit, after)


async def list_providers(backend: Backend) -> Any:
    """Return every registration, by layers."""
    return providers.build_providers(backend)


async def get_provider(backend: Backend, address: bytes, prove: bool) -> Any:
    """Return an account's registrations."""
    return providers.build_provider(backend, address, prove)


async def list_models(backend: Backend) -> Any:
    """Return the models of the chain."""
    return providers.build_models(backend)


async def list_validators(backend: Backend, epoch: int | None) -> Any:
    """Return an epoch's validators, with attendance in the running one."""
    return staking.build_validators(backend, epoch)


async def get_running_epoch(backend: Backend) -> Any:
    """Return the running epoch: that of the next block."""
    return staking.build_epoch(backend, None)


async def get_epoch(backend: Backend, number: int) -> Any:
    """Return an epoch's blocks, validator sets, seed, and what its end brought."""
    return staking.build_epoch(backend, number)


async def list_stakes(backend: Backend) -> Any:
    """Return all stakes, the largest first."""
    return staking.build_stakes(backend)


async def get_stake(backend: Backend, address: bytes) -> Any:
    """Return an account's stake: bonded, unbonding, earned, taken."""
    return staking.build_stake(backend, address)


async def list_evidence(backend: Backend, after: str | None, limit: int) -> Any:
    """Return evidence of misdeeds: what waits, and what blocks applied."""
    return evidence.build_evidence_list(backend, limit, after)


async def get_supply(backend: Backend) -> Any:
    """Return where all atoms are; the sums must agree."""
    return accounts.build_supply(backend)


async def find(backend: Backend, q: str) -> Any:
    """Return what a height, hash, address or name could mean."""
    return search.build_search(backend, q)


_AFTER = Param("after", TEXT, "cursor: `next` of the page before", None)
_PAGE = (_AFTER, Param("limit", LIMIT, "at most 100", PAGE))
_BLOCK = Param("block", BLOCK, "height or hash")
_TX = Param("tx_id", HASH, "transaction")
_ADDRESS = Param("address", ADDRESS, "account")
_PROVE = Param("prove", FLAG, "add the proofs of the state", False)

PATHS = (
    Path("/blocks/tip/height", get_tip_height),
    Path("/blocks/tip/hash", get_tip_hash),
    Path("/blocks", list_blocks, _PAGE),
    Path("/block/{block}", get_block, (_BLOCK,), is_final=True),
    Path("/block/{block}/txs", list_block_txs, (_BLOCK, *_PAGE), is_final=True),
    Path("/tx/{tx_id}", get_tx, (_TX,), is_final=True),
    Path("/tx/{tx_id}/status", get_tx_status, (_TX,), is_final=True),
    Path("/address/{address}", get_address, (_ADDRESS, _PROVE)),
    Path("/address/{address}/txs", list_address_txs, (_ADDRESS, *_PAGE)),
    Path("/address/{address}/events", list_address_events, (_ADDRESS, *_PAGE)),
    Path("/mempool", get_mempool),
    *SHARD_PATHS,
    Path("/work", list_work, (*_PAGE, Param("payee", ADDRESS, "provider", None))),
    Path("/receipts", list_receipts, (Param("limit", LIMIT, "at most 100", PAGE),)),
    Path(
        "/channels/{channel_id}",
        get_channel,
        (Param("channel_id", HASH, "channel"), _PROVE),
    ),
    Path("/channels", list_channels, (_ADDRESS, *_PAGE)),
    Path("/providers", list_providers),
    Path("/providers/{address}", get_provider, (_ADDRESS, _PROVE)),
    Path("/models", list_models),
    Path("/validators", list_validators, (Param("epoch", EPOCH, "epoch", None),)),
    Path("/epochs/running", get_running_epoch),
    Path("/epochs/{number}", get_epoch, (Param("number", EPOCH, "epoch"),)),
    Path("/stakes", list_stakes),
    Path("/stakes/{address}", get_stake, (_ADDRESS,)),
    Path("/evidence", list_evidence, _PAGE),
    Path("/supply", get_supply),
    Path("/search", find, (Param("q", TEXT, "what to look for"),)),
)


class ExplorerRoutes:
    """Handlers of /api/v1."""

    def __init__(self, backend: Backend, bridge: Bridge, version: str) -> None:
        self._backend = backend
        self._bridge = bridge
        self._document = build_openapi(PATHS, version)

    def add_to(self, app: web.Application) -> None:
        """Register the paths."""
        for path in PATHS:
            app.router.add_get("/api/v1" + path.pattern, self._build_handler(path))
        app.router.add_get("/api/v1/openapi.json", self.describe)

    async def describe(self, request: web.Request) -> web.Response:
        """GET /api/v1/openapi.json: all of this, as an OpenAPI document."""
        return respond_cached(request, self._document, final=False)

    def _build_handler(
        self, path: Path
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            given = {**read_query(request), **request.match_info}
            arguments = bind(path.params, given)

            async def read() -> Any:
                return await path.read(self._backend, **arguments)

            value = await self._bridge.call(read)
            if isinstance(value, str):
                headers = {"Cache-Control": "no-cache"}
                return web.Response(text=value, headers=headers)
            is_final = path.is_final and value["final"]
            return respond_cached(request, value, final=is_final)

        return handle

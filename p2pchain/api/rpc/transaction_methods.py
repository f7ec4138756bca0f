"""Methods that submit transactions, and those that wait."""

from typing import Any

from chain.records.transaction import compute_tx_id, decode_transaction
from p2pchain.api.backend import Backend
from p2pchain.api.errors import explain
from p2pchain.api.finality import wait_final
from p2pchain.api.params import BYTES, LIMIT, Param
from p2pchain.api.render import render_mempool, to_hex
from p2pchain.api.rpc.method import Access, Method
from p2pchain.api.views.transactions import render_found
from primitives.errors import RemoteError

Json = dict[str, Any]

COMMIT_TIMEOUT_S = 30.0
"""Thirty blocks: a transaction that is not in by then waits for something else."""


async def broadcast_async(backend: Backend, tx: bytes) -> Json:
    """Submit without saying whether it was taken; malformed bytes are refused."""
    decode_transaction(tx)
    try:
        backend.submit_transaction(tx)
    except RemoteError as error:
        explain(error)  # judged, and on purpose not told
    return {"tx_id": to_hex(compute_tx_id(tx))}


async def broadcast_sync(backend: Backend, tx: bytes) -> Json:
    """Submit; refuse what the mempool refuses."""
    return {"tx_id": to_hex(backend.submit_transaction(tx))}


async def broadcast_commit(backend: Backend, tx: bytes) -> Json:
    """Submit and return the transaction with its outcome when it is final."""
    tx_id = backend.submit_transaction(tx)
    found = await wait_final(backend, tx_id, COMMIT_TIMEOUT_S)
    return render_found(found)


async def list_unconfirmed(backend: Backend, limit: int) -> Json:
    """Return the oldest waiting transactions."""
    return render_mempool(backend.get_mempool(limit))


_TX = Param("tx", BYTES, "canonical bytes of a signed transaction")

METHODS = (
    Method(
        "broadcast_tx_async",
        "Submit and return at once",
        broadcast_async,
        (_TX,),
        Access.WRITE,
    ),
    Method(
        "broadcast_tx_sync",
        "Submit and return when the mempool has taken it",
        broadcast_sync,
        (_TX,),
        Access.WRITE,
    ),
    Method(
        "broadcast_tx_commit",
        "Submit and return when it is final, with its outcome",
        broadcast_commit,
        (_TX,),
        Access.WRITE,
    ),
    Method(
        "unconfirmed_txs",
        "Transactions that wait for a block",
        list_unconfirmed,
        (Param("limit", LIMIT, "at most 100", 25),),
    ),
)

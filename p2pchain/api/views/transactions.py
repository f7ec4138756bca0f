"""Transactions: final ones with their outcome, and those that wait."""

from typing import Any

from chain.queries.found import FoundTransaction
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, render_signed_transaction, to_hex, to_time
from p2pchain.api.views.stamp import build_block_stamp, build_stamp, find_block

Json = dict[str, Any]


def render_found(found: FoundTransaction) -> Json:
    """Return a final transaction with its place and outcome."""
    return render_signed_transaction(found.tx_id, found.signed) | {
        "height": str(found.height),
        "block_hash": to_hex(found.block_hash),
        "final": True,
        "time": to_time(found.time_ms),
        "index": found.index,
        "outcome": render(found.outcome),
    }


def build_transaction(backend: Backend, tx_id: bytes) -> Json:
    """Return a transaction: final, or waiting with `final` false.

    Raises:
        NotFound: Neither final nor waiting here.
    """
    found = backend.queries.get_transaction(tx_id)
    if found is not None:
        return render_found(found)
    signed = backend.get_pending(tx_id)
    if signed is not None:
        return render_signed_transaction(tx_id, signed) | _PENDING
    raise NotFound(f"no transaction {to_hex(tx_id)} is final or waits here")


def build_transaction_status(backend: Backend, tx_id: bytes) -> Json:
    """Return where a transaction stands; an unknown one is an answer, not an error."""
    found = backend.queries.get_transaction(tx_id)
    status: Json = {"tx_id": to_hex(tx_id), "pending": False} | _NOWHERE
    if found is not None:
        status |= {
            "final": True,
            "height": str(found.height),
            "block_hash": to_hex(found.block_hash),
            "ok": found.outcome.ok,
            "code": found.outcome.code,
        }
    else:
        status["pending"] = backend.get_pending(tx_id) is not None
    return status


def build_block_transactions(
    backend: Backend, name: int | bytes, limit: int, after: str | None
) -> Json:
    """Return a block's transactions, by shard, in order of execution."""
    block = find_block(backend, name)
    page = backend.queries.list_block_transactions(block.height, after, limit)
    return build_block_stamp(block) | {
        "transactions": [render_found(found) for found in page.items],
        "next": page.next,
    }


def build_history(
    backend: Backend, address: bytes, limit: int, after: str | None
) -> Json:
    """Return the transactions that concern an address, newest first.

    `missing` says in which shards and blocks there may be others.
    """
    page = backend.queries.list_address_transactions(address, after, limit)
    return build_stamp(backend) | {
        "transactions": [render_found(found) for found in page.items],
        "next": page.next,
        "first_height": str(backend.queries.first_height),
        "missing": [
            {
                "shard": gap.shard,
                "since": str(gap.first),
                "until": None if gap.last is None else str(gap.last),
                "reason": gap.reason,
            }
            for gap in backend.queries.list_gaps()
        ],
    }


_NOWHERE: Json = {"final": False, "height": None, "block_hash": None}
_PENDING: Json = _NOWHERE | {"outcome": None}

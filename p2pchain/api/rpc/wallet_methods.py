"""Methods that use this node's wallet; all need the node's token."""

from typing import Any

from chain.ledger.epochs import compute_epoch
from p2pchain.api.backend import Backend
from p2pchain.api.errors import TransactionRejected
from p2pchain.api.finality import wait_final
from p2pchain.api.params import (
    ADDRESS,
    AMOUNT,
    AMOUNT_OR_ALL,
    FLAG,
    HASH,
    LIMIT,
    SHARD,
    TEXT,
    Param,
)
from p2pchain.api.render import render_own_channel, to_hex
from p2pchain.api.rpc.method import Access, Method
from p2pchain.api.views.accounts import build_account
from p2pchain.api.views.staking import render_stake
from p2pchain.api.views.transactions import build_history
from p2pchain.api.wallet_results import SendResult
from primitives.address import encode_address

Json = dict[str, Any]

WAIT_TIMEOUT_S = 60.0
"""A payment that gathers funds from several shards takes a few blocks."""


async def get_address(backend: Backend) -> Json:
    """Return the wallet's address."""
    return {"address": encode_address(backend.get_status().address)}


async def get_balance(backend: Backend) -> Json:
    """Return what the wallet holds in every shard and in its channels."""
    address = backend.get_status().address
    in_channels = sum(
        own.channel.deposit - own.promised
        for own in backend.list_own_channels()
        if own.role == "payer" and own.channel.status.name != "CLOSED"
    )
    answer = await build_account(backend, address)
    return answer | {"in_channels": str(in_channels)}


async def get_history(backend: Backend, limit: int, after: str | None) -> Json:
    """Return the wallet's transactions, newest first."""
    return build_history(backend, backend.get_status().address, limit, after)


async def send(
    backend: Backend, recipient: bytes, amount: int, shard: int, wait: bool
) -> Json:
    """Pay from this wallet."""
    result = await backend.send(recipient, amount, shard)
    answer = {"fee_limit": str(result.fee_limit)}
    if not result.settled:
        return await finish(backend, result.tx_ids, wait) | answer
    return answer | {
        "tx_ids": [to_hex(tx_id) for tx_id in result.tx_ids],
        "final": True,
        "height": str(max(each.height for each in result.settled)),
        "transactions": [
            {
                "tx_id": to_hex(each.tx_id),
                "shard": each.shard,
                "height": str(each.height),
                "ok": each.ok,
            }
            for each in result.settled
        ],
    }


async def open_channel(
    backend: Backend, payee: bytes, deposit: int, unit_price: int | None, wait: bool
) -> Json:
    """Open a channel to a provider."""
    result = await backend.open_channel(payee, deposit, unit_price)
    return await finish(backend, result.tx_ids, wait) | {
        "channel_id": to_hex(result.channel_id),
        "shard": result.shard,
    }


async def close_channel(backend: Backend, channel_id: bytes, wait: bool) -> Json:
    """Close as payee, or request the close as payer."""
    result = await backend.close_channel(channel_id)
    return await finish(backend, result.tx_ids, wait)


async def stake(backend: Backend, amount: int, wait: bool) -> Json:
    """Put atoms behind the node's validator key."""
    return await _finish_staking(backend, await backend.stake(amount), wait)


async def unstake(backend: Backend, amount: int | None, wait: bool) -> Json:
    """Take atoms out of the stake."""
    return await _finish_staking(backend, await backend.unstake(amount), wait)


async def _finish_staking(backend: Backend, result: SendResult, wait: bool) -> Json:
    """Return the transactions, their epoch, and the stake as it is then."""
    answer = await finish(backend, result.tx_ids, wait)
    stakes = backend.queries.stakes
    stake = stakes.get_stake(backend.get_status().address)
    epoch = stakes.record.epoch
    if answer["final"]:
        # As it was after the block; another one may have begun since.
        length = backend.queries.spec.params.epoch_blocks
        epoch = compute_epoch(int(answer["height"]) + 1, length)
    return answer | {
        "fee_limit": str(result.fee_limit),
        "epoch": epoch,
        "stake": stake and render_stake(backend, stake),
    }


async def list_channels(backend: Backend) -> Json:
    """Return the wallet's channels, open ones first."""
    return {"channels": [render_own_channel(c) for c in backend.list_own_channels()]}


async def finish(backend: Backend, tx_ids: tuple[bytes, ...], wait: bool) -> Json:
    """Return the transactions, and when asked for, wait for the last to be final."""
    answer: Json = {"tx_ids": [to_hex(tx_id) for tx_id in tx_ids]}
    if not wait:
        return answer | {"final": False, "height": None}
    found = await wait_final(backend, tx_ids[-1], WAIT_TIMEOUT_S)
    if not found.outcome.ok:
        raise TransactionRejected(
            f"block {found.height} holds the transaction, but its rule refused: "
            f"{found.outcome.message}",
            reason=found.outcome.code,
        )
    return answer | {"final": True, "height": str(found.height)}


_WAIT = Param("wait", FLAG, "answer when it is final", False)


def _spend(name: str, summary: str, handler: Any, *params: Param) -> Method:
    return Method(name, summary, handler, params, Access.WALLET)


METHODS = (
    _spend("wallet_address", "The wallet's address", get_address),
    _spend("wallet_balance", "What the wallet holds", get_balance),
    _spend(
        "wallet_history",
        "The wallet's transactions, newest first",
        get_history,
        Param("limit", LIMIT, "at most 100", 25),
        Param("after", TEXT, "cursor of the page before", None),
    ),
    _spend(
        "wallet_send",
        "Pay, gathering funds from other shards where needed",
        send,
        Param("recipient", ADDRESS, "whom"),
        Param("amount", AMOUNT, "atoms"),
        Param("shard", SHARD, "where it is delivered; 0 is the root shard", 0),
        _WAIT,
    ),
    _spend(
        "wallet_stake",
        "Put atoms behind the node's validator key",
        stake,
        Param("amount", AMOUNT, "atoms; 0 ends a time out for missing votes"),
        _WAIT,
    ),
    _spend(
        "wallet_unstake",
        "Take atoms out of the stake; they are paid out after the unbonding time",
        unstake,
        Param("amount", AMOUNT_OR_ALL, "atoms, or `all`"),
        _WAIT,
    ),
    _spend(
        "wallet_channel_open",
        "Open a payment channel to a provider",
        open_channel,
        Param("payee", ADDRESS, "account of the provider"),
        Param("deposit", AMOUNT, "atoms to lock"),
        Param("unit_price", AMOUNT, "atoms; by default from its price", None),
        _WAIT,
    ),
    _spend(
        "wallet_channel_close",
        "Close a channel as payee, request its close as payer",
        close_channel,
        Param("channel_id", HASH, "which"),
        _WAIT,
    ),
    _spend("wallet_channel_list", "The wallet's channels", list_channels),
)

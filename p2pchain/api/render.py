"""
Records as JSON: one place that decides how every kind of value looks.

    integer that may pass 2^32    decimal string   (JavaScript loses digits above 2^53)
    smaller integer               number
    bytes                         0x and lower-case hex
    bytes that name an account    bech32m          (by field name, see ADDRESS_FIELDS)
    *_ms of the wall clock        RFC 3339 UTC, the field loses its `_ms`
    enumeration                   its name
    member of a union             an object with its `kind`

What is rendered follows from the records' own types, so a new field or transaction
kind shows up by itself.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from functools import cache, lru_cache
from typing import Any

from msgspec import inspect

from chain.records.proof import Receipt, compute_receipt_hash
from chain.records.transaction import SignedTransaction, compute_tx_id
from p2pchain.api.completion import HopReport, RouteHop, SeenReceipt, ServedModel
from p2pchain.api.status import ConsensusInfo, MempoolInfo, NetInfo, StageStatus
from p2pchain.api.wallet_results import OwnChannel
from primitives.address import encode_address
from primitives.codec import Record, encode

Json = dict[str, Any]

ADDRESS_FIELDS = frozenset(
    {"sender", "recipient", "payer", "payee", "account", "payout", "client", "address"}
)
"""Fields whose 32 bytes name an account."""

CACHED_ADDRESSES = 4096
"""A checksum takes 60 microseconds; about a megabyte remembers so many."""
_CLOCK_FIELDS = frozenset({"time_ms", "seen_ms", "created_ms"})
_MAX_NUMBER = 2**32 - 1


def to_hex(data: bytes) -> str:
    """Return 0x and lower-case hex."""
    return "0x" + data.hex()


@lru_cache(maxsize=CACHED_ADDRESSES)
def to_address(account: bytes) -> str:
    """Return an account's bech32m form; a page of transactions repeats a few."""
    return encode_address(account)


def to_time(time_ms: int) -> str:
    """Return milliseconds since the Unix epoch as RFC 3339 in UTC."""
    seconds, milliseconds = divmod(time_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='seconds')}.{milliseconds:03d}Z"


def render(record: Record) -> Json:
    """Return any record as JSON."""
    return {
        name: renderer(getattr(record, field))
        for field, name, renderer in _plan(type(record))
    }


def render_union(record: Record) -> Json:
    """Return a member of a union as JSON with its `kind`."""
    return {"kind": to_kind(type(record).__name__)} | render(record)


def to_kind(name: str) -> str:
    """Return a class name as a lower-case word: OpenChannels -> open_channels."""
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


@cache
def _plan(kind: type[Record]) -> list[tuple[str, str, Callable[[Any], Any]]]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    plan: list[tuple[str, str, Callable[[Any], Any]]] = []
    for field in info.fields:
        name = field.name
        if name in _CLOCK_FIELDS:
            plan.append((name, name.removesuffix("_ms"), to_time))
        else:
            plan.append((name, name, _choose(name, field.type)))
    return plan


def _choose(name: str, kind: inspect.Type) -> Callable[[Any], Any]:
    """Return what renders values of `kind` in a field called `name`."""
    match kind:
        case inspect.IntType():
            return int if kind.le is not None and kind.le <= _MAX_NUMBER else str
        case inspect.BytesType():
            in_address = name in ADDRESS_FIELDS or name == "addresses"
            return to_address if in_address else to_hex
        case inspect.EnumType():
            return _render_enum
        case inspect.StructType():
            return render
        case inspect.VarTupleType():
            item = _choose(name, kind.item_type)
            return lambda values: [item(value) for value in values]
        case inspect.UnionType():
            return _choose_union(name, kind)
        case _:
            return _as_is


def _choose_union(name: str, kind: inspect.UnionType) -> Callable[[Any], Any]:
    present = [t for t in kind.types if not isinstance(t, inspect.NoneType)]
    item = _choose(name, present[0]) if len(present) == 1 else render_union
    return lambda value: None if value is None else item(value)


def _render_enum(value: Enum) -> str:
    return value.name


def _as_is(value: Any) -> Any:
    return value


def render_receipt(receipt: Receipt) -> Json:
    """Return a hop's receipt with its name."""
    return {"receipt_id": to_hex(compute_receipt_hash(receipt))} | render(receipt)


def render_seen_receipt(seen: SeenReceipt) -> Json:
    """Return a receipt that was announced, and when it came."""
    return {"seen": to_time(seen.seen_ms)} | render_receipt(seen.receipt)


def render_stage(stage: StageStatus) -> Json:
    """Return one worker of a node."""
    return {
        "role": stage.role,
        "model_id": to_hex(stage.model_id),
        "start": stage.start,
        "end": stage.end,
        "state": stage.state.value,
        "pid": stage.pid,
        "detail": stage.detail,
        "sessions": stage.sessions,
        "pages_kept": stage.pages_kept,
        "kept_bytes": stage.kept_bytes,
        "pages_found": stage.pages_found,
        "pages_given": stage.pages_given,
        "pages_taken": stage.pages_taken,
    }


def render_net_info(info: NetInfo) -> Json:
    """Return a node's connections."""
    return {
        "node_id": to_hex(info.node_id),
        "listen": list(info.listen),
        "n_peers": len(info.peers),
        "peers": [
            {
                "node_id": to_hex(peer.node_id),
                "address": peer.address,
                "outbound": peer.outbound,
                "connected_ms": str(peer.connected_ms),
                "rtt_us": peer.rtt_us,
                "bytes_in": str(peer.bytes_in),
                "bytes_out": str(peer.bytes_out),
                "score": peer.score,
                "height": None if peer.height is None else str(peer.height),
            }
            for peer in info.peers
        ],
    }


def render_consensus(info: ConsensusInfo) -> Json:
    """Return a look into the consensus core."""
    return {
        "epoch": info.epoch,
        "view": str(info.view),
        "leader": info.leader,
        "index": info.index,
        "is_voting": info.is_voting,
        "mute_reason": info.mute_reason,
        "final_height": str(info.final_height),
        "final_view": str(info.final_view),
        "final_hash": to_hex(info.final_hash),
        "total_power": str(info.total_power),
    }


def render_own_channel(own: OwnChannel) -> Json:
    """Return a channel of this wallet with what the chain cannot see."""
    return {
        "role": own.role,
        "promised": str(own.promised),
        "reserved": str(own.reserved),
        "remaining": str(own.channel.deposit - own.promised),
        "blocked": own.blocked,
    } | render(own.channel)


def render_route_hop(hop: RouteHop) -> Json:
    """Return one provider of a route."""
    return {
        "name": hop.name,
        "node_key": to_hex(hop.node_key),
        "provider": to_address(hop.provider),
        "shard": hop.shard,
        "start": hop.start,
        "end": hop.end,
        "input_price": str(hop.input_price),
        "output_price": str(hop.output_price),
        "latency_us": hop.latency_us,
        "measured_us": hop.measured_us,
    }


def render_hop_report(hop: HopReport) -> Json:
    """Return what a hop of a finished session did and cost."""
    return {
        "name": hop.name,
        "node_key": to_hex(hop.node_key),
        "start": hop.start,
        "end": hop.end,
        "steps": hop.steps,
        "step_us": hop.step_us,
        "price": str(hop.price),
        "channel_id": to_hex(hop.channel_id),
        "vouchers": hop.vouchers,
    }


def render_served_model(model: ServedModel) -> Json:
    """Return a model as this node sees it."""
    return {
        "model_id": to_hex(model.model_id),
        "name": model.name,
        "layers": model.layers,
        "context_length": model.context_length,
        "servable": model.servable,
        "reason": model.reason,
    }


def render_signed_transaction(tx_id: bytes, signed: SignedTransaction) -> Json:
    """Return a signed transaction, flat, with its id and kind."""
    transaction = render(signed.transaction)
    payload = transaction.pop("payload")
    return {
        "tx_id": to_hex(tx_id),
        "kind": payload.pop("kind"),
        **transaction,
        "payload": payload,
        "signature": to_hex(signed.signature),
    }


def render_mempool(info: MempoolInfo) -> Json:
    """Return waiting transactions."""
    return {
        "n_txs": len(info.transactions),
        "total": info.count,
        "total_bytes": str(info.total_bytes),
        "txs": [
            render_signed_transaction(compute_tx_id(encode(signed)), signed)
            for signed in info.transactions
        ],
    }

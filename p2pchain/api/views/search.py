"""Search: everything that a height, hash, address or name could mean."""

from typing import Any

from p2pchain.api.backend import Backend
from p2pchain.api.render import to_hex
from p2pchain.api.views.stamp import build_stamp
from primitives.address import decode_address, encode_address
from primitives.errors import DecodeError

Json = dict[str, Any]

MAX_RESULTS = 25


def build_search(backend: Backend, text: str) -> Json:
    """Return what `text` could mean, the likeliest first."""
    text = text.strip()
    results = [
        *_find_height(backend, text),
        *_find_hash(backend, text),
        *_find_address(text),
        *_find_names(backend, text.lower()),
    ]
    return build_stamp(backend) | {"results": results[:MAX_RESULTS]}


def _find_height(backend: Backend, text: str) -> list[Json]:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        return []
    if int(text) > backend.queries.height:
        return []
    return [{"kind": "block", "id": str(int(text))}]


def _find_hash(backend: Backend, text: str) -> list[Json]:
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return []
    if len(data) != 32:
        return []
    queries = backend.queries
    found = [
        ("block", queries.get_block(data)),
        ("transaction", queries.get_transaction(data)),
        ("chunk", queries.shards.find_chunk(data)),
        ("channel", queries.market.get_channel(data)),
    ]
    results = [{"kind": k, "id": to_hex(data)} for k, thing in found if thing]
    if backend.get_pending(data) is not None:
        results.append({"kind": "transaction", "id": to_hex(data)})
    results += [
        {"kind": "model", "id": to_hex(data), "name": model.name}
        for model in queries.market.list_models()
        if model.model_id == data
    ]
    results += [
        {"kind": "provider", "id": encode_address(registration.account)}
        for registration in queries.market.list_registrations()
        if registration.node_key == data
    ]
    return results


def _find_address(text: str) -> list[Json]:
    try:
        return [{"kind": "address", "id": encode_address(decode_address(text))}]
    except DecodeError:
        return []


def _find_names(backend: Backend, text: str) -> list[Json]:
    if not text:
        return []
    validators = [
        {"kind": "validator", "id": encode_address(stake.account), "name": stake.name}
        for stake in backend.queries.stakes.list_stakes()
        if text in stake.name.lower()
    ]
    models = [
        {"kind": "model", "id": to_hex(m.model_id), "name": m.name}
        for m in backend.queries.market.list_models()
        if text in m.name.lower()
    ]
    return validators + models

"""Shards: their layers, hosts, newest chunk, backlog, and who is on duty in them."""

from typing import Any

from chain.queries.found import FoundShard
from chain.queries.shards import FoundHeader
from chain.records.registration import Registration
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, to_address, to_hex
from p2pchain.api.views.chunks import render_chunk
from p2pchain.api.views.committees import build_duty
from p2pchain.api.views.stamp import build_stamp, get_account_name, get_model_name
from primitives.buckets import compute_bucket_count
from shards.chunk import get_count
from shards.layout import ShardSpec

Json = dict[str, Any]


def build_shards(backend: Backend) -> Json:
    """Return every shard with its newest chunk and its packets."""
    shards = backend.queries.list_shards()
    registrations = backend.queries.market.list_registrations()
    return build_stamp(backend) | {
        "shards": [
            _render_shard(backend, shard, shards, registrations) for shard in shards
        ]
    }


def build_shard(backend: Backend, shard_id: int) -> Json:
    """Return one shard, with the size of its state.

    Raises:
        NotFound: The layout has no such shard.
    """
    queries = backend.queries
    for shard in (shards := queries.list_shards()):
        if shard.shard_id == shard_id:
            registrations = queries.market.list_registrations()
            shown = _render_shard(backend, shard, shards, registrations)
            return build_stamp(backend) | shown | {"tree": _measure(backend, shard_id)}
    raise NotFound(f"no shard {shard_id}")


def _render_shard(
    backend: Backend,
    shard: FoundShard,
    shards: tuple[FoundShard, ...],
    registrations: tuple[Registration, ...],
) -> Json:
    spec, totals = shard.spec, shard.totals
    queries = backend.queries
    phase = queries.layouts.get_phase(shard.shard_id).name.lower()
    halt = queries.shards.get_halt(shard.shard_id)
    return {
        "shard": shard.shard_id,
        "model_id": spec and to_hex(spec.model_id),
        "model": spec and get_model_name(backend, spec.model_id),
        "layers": spec and [spec.start, spec.end],
        "changed_epoch": spec.changed_epoch if spec else 0,
        "phase": "halted" if halt else phase,
        "followed": shard.shard_id in queries.followed,
        "halt": halt and render(halt),
        "hosts": _list_hosts(backend, spec, registrations),
        "duty": build_duty(backend, shard.shard_id),
        "state_root": to_hex(shard.head.post_root),
        "chunk": render_chunk(backend, FoundHeader(shard.head_height, shard.head)),
        "chunk_height": str(shard.head_height),
        "totals": totals
        and {
            "genesis": str(totals.genesis),
            "minted": str(totals.minted),
            "burned": str(totals.burned),
        },
        "backlog": str(sum(count for _, count in shard.backlog)),
        "links": [_build_link(shard, other) for other in shards if other is not shard],
    }


def _list_hosts(
    backend: Backend, spec: ShardSpec | None, registrations: tuple[Registration, ...]
) -> list[Json]:
    """Return who registered layers of a shard, by layers."""
    if spec is None:
        return []
    hosts = [
        registration
        for registration in registrations
        if registration.model_id == spec.model_id
        and registration.start < spec.end
        and spec.start < registration.end
    ]
    return [
        {
            "name": get_account_name(backend, host.account) or host.node_key.hex()[:16],
            "account": to_address(host.account),
            "layers": [host.start, host.end],
            "home": host.home,
            "status": host.status.name,
        }
        for host in sorted(hosts, key=lambda host: (host.start, host.end, host.account))
    ]


def _build_link(shard: FoundShard, other: FoundShard) -> Json:
    """Return the packets from `shard` to `other` in numbers."""
    sent = get_count(shard.head.out_count, other.shard_id)
    consumed = get_count(other.head.in_cursor, shard.shard_id)
    return {
        "dst": other.shard_id,
        "sent": str(sent),
        "consumed": str(consumed),
        "backlog": str(sent - consumed),
    }


def _measure(backend: Backend, shard_id: int) -> Json | None:
    """Return the size of a shard's state tree; None if the state is not here."""
    if shard_id not in backend.queries.followed:
        return None
    levels = backend.queries.spec.params.bucket_levels
    count = backend.queries.shards.count_keys(shard_id)
    return {
        "levels": levels,
        "buckets": compute_bucket_count(levels),
        "keys": str(count.keys),
        "keys_exact": count.is_exact,
    }

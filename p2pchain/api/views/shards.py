"""Shards, packets between them, and proofs of their state."""

from typing import Any

from chain.contracts.credit import Bounce, Credit
from chain.queries import FoundShard
from chain.store import StoredPacket
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, to_hex
from p2pchain.api.views.stamp import build_stamp, get_model_name
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from shards.chunk import compute_chunk_hash, get_count
from shards.packet import PacketKind

Json = dict[str, Any]


def build_shards(backend: Backend) -> Json:
    """Return every shard with its newest chunk and its packets."""
    shards = backend.queries.list_shards()
    return build_stamp(backend) | {
        "shards": [_render_shard(backend, shard, shards) for shard in shards]
    }


def build_shard(backend: Backend, shard_id: int) -> Json:
    """Return one shard.

    Raises:
        NotFound: The layout has no such shard.
    """
    for shard in (shards := backend.queries.list_shards()):
        if shard.shard_id == shard_id:
            return build_stamp(backend) | _render_shard(backend, shard, shards)
    raise NotFound(f"no shard {shard_id}")


def build_packets(
    backend: Backend, src: int, dst: int, limit: int, after: str | None
) -> Json:
    """Return the packets from one shard to another, newest first.

    Raises:
        NotFound: The layout has no such shard.
    """
    known = backend.queries.layout.shard_ids
    for shard in (src, dst):
        if shard not in known:
            raise NotFound(f"no shard {shard}")
    page = backend.queries.list_packets(src, dst, after, limit)
    return build_stamp(backend) | {
        "packets": [_render_packet(stored) for stored in page.items],
        "next": page.next,
    }


def build_state_proof(
    backend: Backend, shard: int, key: bytes, height: int | None = None
) -> Json:
    """Return a value of a final state with its proof, or the proof of absence.

    Raises:
        NotFound: The layout has no such shard.
        PrunedState: The state after `height` is not kept; says which are.
    """
    if shard not in backend.queries.layout.shard_ids:
        raise NotFound(f"no shard {shard}")
    proof = backend.queries.build_state_proof(shard, key, height)
    return build_stamp(backend) | {
        "shard": shard,
        "key": to_hex(key),
        "value": None if proof.value is None else to_hex(proof.value),
        "state_height": str(proof.header.height),
        "shard_root": to_hex(proof.shard_root),
        # The whole proof as the bytes that `chain.proofs` checks.
        "proof": to_hex(encode(proof)),
    }


def _render_shard(
    backend: Backend, shard: FoundShard, shards: tuple[FoundShard, ...]
) -> Json:
    head, spec = shard.head, shard.spec
    totals = shard.totals
    return {
        "shard": shard.shard_id,
        "model_id": spec and to_hex(spec.model_id),
        "model": spec and get_model_name(backend, spec.model_id),
        "layers": spec and [spec.start, spec.end],
        "changed_epoch": spec.changed_epoch if spec else 0,
        "phase": backend.queries.layouts.get_phase(shard.shard_id).name.lower(),
        "state_root": to_hex(head.post_root),
        "chunk": render(head) | {"chunk_hash": to_hex(compute_chunk_hash(head))},
        "chunk_height": str(shard.head_height),
        "totals": {
            "genesis": str(totals.genesis),
            "minted": str(totals.minted),
            "burned": str(totals.burned),
        },
        "links": [_build_link(shard, other) for other in shards if other is not shard],
    }


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


def _render_packet(stored: StoredPacket) -> Json:
    packet = stored.proof.packet
    consumed = stored.consumed_height
    return {
        "src": packet.src,
        "dst": packet.dst,
        "seq": str(packet.seq),
        "kind": PacketKind(packet.kind).name.lower(),
        "amount": str(packet.amount),
        "content": _render_payload(packet.kind, packet.payload),
        "payload": to_hex(packet.payload),
        "source_height": str(stored.proof.source_height),
        "consumed_height": None if consumed is None else str(consumed),
    }


def _render_payload(kind: int, payload: bytes) -> Json | None:
    """Return what a packet that moves money says; others stay bytes."""
    try:
        match kind:
            case PacketKind.CREDIT:
                return render(decode(Credit, payload))
            case PacketKind.BOUNCE:
                return render(decode(Bounce, payload))
    except DecodeError:
        pass  # it is final all the same, and the bytes are shown
    return None

"""Packets between shards: what they carry, and where they are."""

from typing import Any

from chain.contracts.credit import Bounce, Credit
from chain.storage.store import StoredPacket
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, to_hex
from p2pchain.api.views.stamp import build_stamp
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from shards.packet import PacketKind

Json = dict[str, Any]


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


def build_packet(backend: Backend, src: int, dst: int, seq: int) -> Json:
    """Return a packet, where it is, and its proof under its chunk's `out_root`.

    Raises:
        NotFound: None of that number was emitted.
    """
    stored = backend.queries.get_packet(src, dst, seq)
    if stored is None:
        raise NotFound(f"no packet {seq} from shard {src} to shard {dst}")
    proof = stored.proof
    source = backend.queries.shards.find_header(src, proof.source_height)
    return (
        build_stamp(backend)
        | _render_packet(stored)
        | {
            "source_chunk": source and str(source.header.seq),
            "out_root": source and to_hex(source.header.out_root),
            "index": proof.index,
            "count": proof.count,
            "path": [to_hex(each) for each in proof.path],
            # The whole proof as the bytes that the destination consumes.
            "proof": to_hex(encode(proof)),
        }
    )


def _render_packet(stored: StoredPacket) -> Json:
    packet = stored.proof.packet
    consumed = stored.consumed_height
    return {
        "src": packet.src,
        "dst": packet.dst,
        "seq": str(packet.seq),
        "kind": _get_kind(packet.kind),
        "state": "waiting" if consumed is None else "consumed",
        "amount": str(packet.amount),
        "content": _render_payload(packet.kind, packet.payload),
        "payload": to_hex(packet.payload),
        "source_height": str(stored.proof.source_height),
        "consumed_height": None if consumed is None else str(consumed),
    }


def _get_kind(kind: int) -> str:
    try:
        return PacketKind(kind).name.lower()
    except ValueError:
        return f"kind_{kind}"


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

"""Methods about shards: their chunks, the packets between them, their state."""

from typing import Any

from p2pchain.api.backend import Backend
from p2pchain.api.errors import InvalidParams
from p2pchain.api.params import BYTES, HASH, HEIGHT, LIMIT, SHARD, TEXT, Param
from p2pchain.api.rpc.method import Method
from p2pchain.api.views import chunks, packets, proofs, shards

Json = dict[str, Any]


async def list_shards(backend: Backend) -> Json:
    """Return all shards: layers, hosts, newest chunk, backlog, who is on duty."""
    return shards.build_shards(backend)


async def get_shard(backend: Backend, shard: int) -> Json:
    """Return one shard, with the size of its state."""
    return shards.build_shard(backend, shard)


async def list_chunks(
    backend: Backend, shard: int, limit: int, after: str | None
) -> Json:
    """Return a shard's chunks with their certificates, newest first."""
    return chunks.build_chunks(backend, shard, limit, after)


async def get_chunk(
    backend: Backend, shard: int | None, seq: int | None, hash: bytes | None
) -> Json:
    """Return a chunk by its shard and number, or by its hash."""
    if hash is not None:
        if shard is not None or seq is not None:
            raise InvalidParams("give hash, or shard and seq, not both", param="hash")
        return chunks.build_chunk_by_hash(backend, hash)
    if shard is None or seq is None:
        raise InvalidParams("hash is missing, or shard and seq", param="hash")
    return chunks.build_chunk(backend, shard, seq)


async def list_packets(
    backend: Backend, src: int, dst: int, limit: int, after: str | None
) -> Json:
    """Return the packets from one shard to another, newest first."""
    return packets.build_packets(backend, src, dst, limit, after)


async def get_packet(backend: Backend, src: int, dst: int, seq: int) -> Json:
    """Return a packet, what became of it, and its proof."""
    return packets.build_packet(backend, src, dst, seq)


async def get_state_proof(
    backend: Backend, shard: int, key: bytes, height: int | None
) -> Json:
    """Return a value of a final state with its proof, or the proof of absence."""
    return await proofs.build_state_proof(backend, shard, key, height)


_PAGE = (
    Param("limit", LIMIT, "at most 100", 25),
    Param("after", TEXT, "cursor: `next` of the page before", None),
)
_SHARD = Param("shard", SHARD, "shard")
_WAY = (Param("src", SHARD, "source"), Param("dst", SHARD, "destination"))

METHODS = (
    Method(
        "shard_list", "Shards: layers, hosts, chunk, backlog, committee", list_shards
    ),
    Method("shard_get", "A shard, with the size of its state", get_shard, (_SHARD,)),
    Method(
        "chunk_list",
        "A shard's chunks with their certificates, newest first",
        list_chunks,
        (_SHARD, *_PAGE),
    ),
    Method(
        "chunk_get",
        "A chunk by shard and number, or by hash",
        get_chunk,
        (
            Param("shard", SHARD, "shard", None),
            Param("seq", HEIGHT, "number; the first is 1", None),
            Param("hash", HASH, "chunk hash", None),
        ),
    ),
    Method(
        "packet_list",
        "Packets from one shard to another, newest first",
        list_packets,
        (*_WAY, *_PAGE),
    ),
    Method(
        "packet_get",
        "A packet, what became of it, and its proof",
        get_packet,
        (*_WAY, Param("seq", HEIGHT, "number; the first is 0")),
    ),
    Method(
        "state_proof",
        "A value of the state after one of the last 128 final blocks, with its proof",
        get_state_proof,
        (
            _SHARD,
            Param("key", BYTES, "key in the shard's state"),
            Param("height", HEIGHT, "of a final block; the last one", None),
        ),
    ),
)

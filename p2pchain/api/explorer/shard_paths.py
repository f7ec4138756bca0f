"""Paths of /api/v1 about shards: chunks, packets between them, and their state."""

from typing import Any

from p2pchain.api.backend import Backend
from p2pchain.api.explorer.path import Path
from p2pchain.api.params import BYTES, HASH, HEIGHT, LIMIT, SHARD, TEXT, Param
from p2pchain.api.views import chunks, layout, packets, proofs, shards

PAGE = 25


async def list_shards(backend: Backend) -> Any:
    """Return all shards: layers, hosts, newest chunk, backlog, who is on duty."""
    return shards.build_shards(backend)


async def get_layout(backend: Backend) -> Any:
    """Return the shards now and next epoch, and the open proposals."""
    return layout.build_layout(backend)


async def get_shard(backend: Backend, shard: int) -> Any:
    """Return a shard."""
    return shards.build_shard(backend, shard)


async def list_chunks(
    backend: Backend, shard: int, after: str | None, limit: int
) -> Any:
    """Return a shard's chunks with their certificates, newest first."""
    return chunks.build_chunks(backend, shard, limit, after)


async def get_chunk(backend: Backend, shard: int, seq: int) -> Any:
    """Return a shard's chunk by its number; the first one is 1."""
    return chunks.build_chunk(backend, shard, seq)


async def get_chunk_by_hash(backend: Backend, chunk_hash: bytes) -> Any:
    """Return a chunk by its hash."""
    return chunks.build_chunk_by_hash(backend, chunk_hash)


async def get_state(
    backend: Backend, shard: int, key: bytes, height: int | None
) -> Any:
    """Return a value of a recent final state with its proof, or that of its absence."""
    return await proofs.build_state_proof(backend, shard, key, height)


async def list_packets(
    backend: Backend, src: int, dst: int, after: str | None, limit: int
) -> Any:
    """Return the packets from one shard to another, newest first."""
    return packets.build_packets(backend, src, dst, limit, after)


async def get_packet(backend: Backend, src: int, dst: int, seq: int) -> Any:
    """Return a packet, what became of it, and its proof."""
    return packets.build_packet(backend, src, dst, seq)


_AFTER = Param("after", TEXT, "cursor: `next` of the page before", None)
_PAGE = (_AFTER, Param("limit", LIMIT, "at most 100", PAGE))
_SHARD = Param("shard", SHARD, "shard")
_SEQ = Param("seq", HEIGHT, "number")
_KEY = Param("key", BYTES, "key in the shard's state")
_HEIGHT = Param("height", HEIGHT, "of one of the last 128 final blocks", None)
_WAY = (Param("src", SHARD, "source"), Param("dst", SHARD, "destination"))
_NAME = Param("chunk_hash", HASH, "chunk")

SHARD_PATHS = (
    Path("/shards", list_shards),
    Path("/layout", get_layout),
    Path("/shard/{shard}", get_shard, (_SHARD,)),
    Path("/shard/{shard}/chunks", list_chunks, (_SHARD, *_PAGE)),
    Path("/shard/{shard}/chunk/{seq}", get_chunk, (_SHARD, _SEQ), is_final=True),
    Path("/shard/{shard}/state/{key}", get_state, (_SHARD, _KEY, _HEIGHT)),
    Path("/chunk/{chunk_hash}", get_chunk_by_hash, (_NAME,), is_final=True),
    Path("/packets/{src}/{dst}", list_packets, (*_WAY, *_PAGE)),
    Path("/packets/{src}/{dst}/{seq}", get_packet, (*_WAY, _SEQ)),
)

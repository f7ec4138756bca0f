"""Chunks: who made them, who stands for them, and what they did."""

from functools import lru_cache
from typing import Any

from chain.errors import HistoryAbsent
from chain.queries.queries import Queries
from chain.queries.shards import FoundHeader, list_signers
from chain.records.transaction import compute_tx_id
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, to_hex
from p2pchain.api.views.committees import build_committee
from p2pchain.api.views.stamp import (
    CACHED_EPOCHS,
    build_stamp,
    find_block,
    get_name,
    get_validator_names,
)
from shards.chunk import ChunkHeader, Counter, compute_chunk_hash, get_count

Json = dict[str, Any]


def build_chunks(backend: Backend, shard: int, limit: int, after: str | None) -> Json:
    """Return a shard's chunks, newest first.

    Raises:
        NotFound: The layout has no such shard.
    """
    if shard not in backend.queries.layout.shard_ids:
        raise NotFound(f"no shard {shard}")
    page = backend.queries.shards.list_headers(shard, after, limit)
    return build_stamp(backend) | {
        "chunks": [render_chunk(backend, found) for found in page.items],
        "next": page.next,
    }


def build_chunk(backend: Backend, shard: int, seq: int) -> Json:
    """Return a shard's chunk: header, certificate, packets, transactions.

    Raises:
        NotFound: The shard has no chunk of that number.
        HistoryAbsent: It is from before our history.
    """
    found = backend.queries.shards.get_header(shard, seq)
    if found is None:
        raise NotFound(f"shard {shard} has no chunk {seq}")
    return _build_chunk(backend, found)


def build_chunk_by_hash(backend: Backend, chunk_hash: bytes) -> Json:
    """Return a chunk by its name.

    Raises:
        NotFound: No final block holds it.
        HistoryAbsent: It is from before our history.
    """
    found = backend.queries.shards.find_chunk(chunk_hash)
    if found is None:
        raise NotFound(f"no final block has a chunk {to_hex(chunk_hash)}")
    return _build_chunk(backend, found)


def render_chunk(backend: Backend, found: FoundHeader) -> Json:
    """Return a chunk's header with its name, place, producer and endorsers."""
    header = found.header
    names = get_validator_names(backend, header.epoch)
    return {
        "chunk_hash": to_hex(compute_chunk_hash(header)),
        **render(header),
        "height": str(found.height),
        # Nobody made what the first chunk follows.
        "producer_name": get_name(names, header.producer) if header.seq else None,
        "certificate": _build_certificate(backend, header),
    }


def _build_chunk(backend: Backend, found: FoundHeader) -> Json:
    block = find_block(backend, found.height)
    body = backend.queries.get_chunk(found.header.shard, found.header.seq)
    return (
        render_chunk(backend, found)
        | {"block_hash": to_hex(block.block_hash), "final": True}
        | _count_packets(backend, found.header)
        | {
            # None: who does not follow the shard has headers and certificates only.
            "tx_ids": body
            and [to_hex(compute_tx_id(data)) for data in body.chunk.transactions],
        }
    )


def _build_certificate(backend: Backend, header: ChunkHeader) -> Json | None:
    """Return who endorsed, with what power; None for the root shard."""
    queries = backend.queries
    certificate = queries.shards.get_certificate(header)
    validators = queries.stakes.get_validators(header.epoch)
    if certificate is None or validators is None:
        return None
    names = get_validator_names(backend, header.epoch)
    signers = list_signers(certificate, len(validators))
    powers = [validator.power for validator in validators.validators]
    seed = _find_seed(queries, header.epoch)
    committee = seed and queries.shards.compute_committee(header, seed)
    return {
        "endorsers": [
            {
                "index": index,
                "name": get_name(names, index),
                "power": str(powers[index]),
            }
            for index in signers
        ],
        "power": str(sum(powers[index] for index in signers)),
        "total_power": str(validators.total_power),
        "committee": committee
        and build_committee(backend, committee, header.epoch, members=False),
        "bitmap": to_hex(certificate.bitmap),
        "signature": to_hex(certificate.signature),
    }


@lru_cache(maxsize=CACHED_EPOCHS)
def _find_seed(queries: Queries, number: int) -> bytes | None:
    """Return the seed of an epoch that has begun; None: from before our history."""
    try:
        epoch = queries.stakes.get_epoch(number)
    except HistoryAbsent:
        return None
    return None if epoch is None else epoch.seed


def _count_packets(backend: Backend, header: ChunkHeader) -> Json:
    """Return which packets a chunk consumed and sent, as stretches of numbers."""
    before = backend.queries.shards.get_header(header.shard, header.seq - 1)
    if before is None and header.seq > 1:
        return {"consumed": None, "sent": None}  # from before our history
    first = before.header if before else None
    consumed = _compute_stretches(first.in_cursor if first else (), header.in_cursor)
    sent = _compute_stretches(first.out_count if first else (), header.out_count)
    return {
        "consumed": [{"src": shard, **stretch} for shard, stretch in consumed],
        "sent": [{"dst": shard, **stretch} for shard, stretch in sent],
    }


def _compute_stretches(
    before: tuple[Counter, ...], after: tuple[Counter, ...]
) -> list[tuple[int, Json]]:
    stretches = []
    for counter in after:
        first = get_count(before, counter.shard)
        if counter.count > first:
            stretch = {"first": str(first), "count": counter.count - first}
            stretches.append((counter.shard, stretch))
    return stretches

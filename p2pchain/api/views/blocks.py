"""Blocks, headers and the certificates that make them final."""

from typing import Any

from chain.queries.found import FoundBlock
from chain.queries.shards import FoundHeader
from chain.records.transaction import compute_tx_id
from consensus.messages import Certificate, Kind
from consensus.validators import decode_bitmap
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, to_hex, to_time
from p2pchain.api.views.chunks import render_chunk
from p2pchain.api.views.staking import build_events
from p2pchain.api.views.stamp import (
    build_block_stamp,
    build_stamp,
    find_block,
    get_name,
    get_validator_names,
)
from shards.chunk import ChunkHeader

Json = dict[str, Any]


def build_block(backend: Backend, name: int | bytes | None) -> Json:
    """Return a block with all but its transactions, which are apart.

    `events` is what the block did besides them: rewards, leavers, payouts, slashes.
    """
    found = find_block(backend, name)
    body = found.block.body
    events = backend.queries.stakes.list_events(found.height)
    return _build_summary(backend, found) | {
        "header": render(found.block.header),
        "chunks": [_build_chunk(backend, found, h) for h in body.headers],
        "attendance": render(body.attendance),
        "evidence": [to_hex(data) for data in body.evidence],
        "events": build_events(backend, events),
        "certificate": build_certificate(backend, found.certificate),
    }


def build_header(backend: Backend, name: int | bytes | None) -> Json:
    """Return a block's header."""
    found = find_block(backend, name)
    return build_block_stamp(found) | {"header": render(found.block.header)}


def build_commit(backend: Backend, name: int | bytes | None) -> Json:
    """Return a block's header and the certificate that made it final.

    A block that became final with a later one shares that one's certificate; then
    `certificate.height` is above `height`.
    """
    found = find_block(backend, name)
    if found.certificate is None:
        raise NotFound("nobody voted for the genesis block")
    return build_header(backend, name) | {
        "certificate": build_certificate(backend, found.certificate)
    }


def build_block_list(backend: Backend, limit: int, after: str | None) -> Json:
    """Return blocks, newest first."""
    page = backend.queries.list_blocks(after, limit)
    return build_stamp(backend) | {
        "first_height": str(backend.queries.first_height),
        "blocks": [_build_summary(backend, found) for found in page.items],
        "next": page.next,
    }


def build_certificate(backend: Backend, certificate: Certificate | None) -> Json | None:
    """Return a certificate with the names of those who signed."""
    if certificate is None:
        return None
    names = get_validator_names(backend, certificate.epoch)
    signers = decode_bitmap(certificate.bitmap, len(names)) or ()
    return {
        "kind": Kind(certificate.kind).name.lower(),
        "height": certificate.proposal and str(certificate.proposal.height),
        "block_hash": certificate.proposal and to_hex(certificate.proposal.block_hash),
        "epoch": certificate.epoch,
        "view": str(certificate.view),
        "signers": [
            {"index": index, "name": get_name(names, index)} for index in signers
        ],
        "bitmap": to_hex(certificate.bitmap),
        "signature": to_hex(certificate.signature),
    }


def _build_summary(backend: Backend, found: FoundBlock) -> Json:
    header = found.block.header
    headers = found.block.body.headers
    count = backend.queries.shards.count_consumed
    names = get_validator_names(backend, header.epoch)
    return build_block_stamp(found) | {
        "time": to_time(header.time_ms),
        "epoch": header.epoch,
        "view": str(header.view),
        "proposer": header.proposer,
        "proposer_name": get_name(names, header.proposer),
        "parent_hash": to_hex(header.parent_hash),
        "tx_count": found.transactions,
        "packet_count": sum(count(h, found.height) for h in headers),
        "size": found.length,
        "fees": str(sum(h.fees for h in headers)),
    }


def _build_chunk(backend: Backend, found: FoundBlock, header: ChunkHeader) -> Json:
    """Return a chunk's header and ids; without ids where its body is not here."""
    queries = backend.queries
    chunk = queries.find_chunk(found.block, header.shard)
    return render_chunk(backend, FoundHeader(found.height, header)) | {
        "packets_in": queries.shards.count_consumed(header, found.height),
        "tx_ids": chunk and [to_hex(compute_tx_id(tx)) for tx in chunk.transactions],
    }

"""
What a block's chunks do to the state: one code for leader and validators.

A chunk header is computed from what executing the chunk brought about.  The leader
puts it into the block; a validator computes it too and wants the very same.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chain.block import MAX_EVIDENCE, Body
from chain.chunk_context import build_context
from chain.errors import InvalidBlock, InvalidTransaction
from chain.execution import ChunkFull, ChunkLimits, ChunkResult, ChunkRun
from chain.held import HeldBlock
from chain.params import ChainParams
from chain.spec import ChainSpec
from chain.state import StateView
from chain.system import SystemResult
from chain.verified import VerifiedCache
from consensus.evidence import MAX_EVIDENCE_BYTES
from primitives.codec import encode
from primitives.merkle import compute_list_root
from primitives.types import Height, ShardId
from shards.chunk import Chunk, ChunkHeader, compute_chunk_hash
from shards.errors import InvalidPacket
from shards.layout import ROOT_SHARD
from shards.packet import (
    PacketProof,
    build_packet_proofs,
    compute_out_root,
    verify_packet_proof,
)

HEADER_BYTES = 2048
"""Room for a block's header and attendance."""
EVIDENCE_BYTES = MAX_EVIDENCE * (MAX_EVIDENCE_BYTES + 3)
"""Room for evidence, which no amount of transactions may keep out."""
CHUNK_HEADER_BYTES = 768
"""Room for a chunk's header without counters."""
COUNTERS_BYTES = 16
"""Room for one shard's two counters in a chunk header."""

FindChunk = Callable[[ShardId, Height], ChunkHeader | None]
"""Header of a shard's chunk at a height of this branch."""


@dataclass(frozen=True, slots=True)
class BlockBase:
    """What a block's chunks stand on."""

    parent: HeldBlock
    system: SystemResult
    """Of the block's own system step."""
    view: int
    """In which it is proposed."""
    proposer: int
    """Index of its leader, who produces all chunks."""


@dataclass(frozen=True, slots=True)
class Processed:
    """What a block brought about."""

    base: BlockBase

    results: Mapping[ShardId, ChunkResult]
    chunks: tuple[Chunk, ...]
    view: StateView
    heads: Mapping[ShardId, ChunkHeader]


def compute_block_limits(params: ChainParams, shards: int) -> ChunkLimits:
    """Return what all chunks of a block may hold together; counts are per chunk."""
    counters = COUNTERS_BYTES * shards
    chunks = shards * (CHUNK_HEADER_BYTES + counters)
    overhead = HEADER_BYTES + EVIDENCE_BYTES + chunks
    return ChunkLimits(
        bytes=params.block_bytes - overhead,
        work=params.block_work,
        transactions=params.chunk_transactions,
        packets=params.chunk_packets,
    )


def start_chunk(
    spec: ChainSpec,
    base: BlockBase,
    shard: ShardId,
    limits: ChunkLimits,
    verified: VerifiedCache,
) -> ChunkRun:
    """Return the run of the shard's chunk."""
    context = build_context(spec, base.parent, shard)
    view = base.system.view
    return ChunkRun(context, lambda key: view.get(shard, key), limits, verified)


def combine_chunks(
    base: BlockBase, results: Mapping[ShardId, ChunkResult]
) -> Processed:
    """Return chunks and state of executed shards, in ascending order of shards."""
    writes = {shard: result.writes for shard, result in results.items()}
    if base.system.writes:
        # One overlay per block; what the chunk wrote later counts.
        chunk_writes = writes.get(ROOT_SHARD, {})
        writes[ROOT_SHARD] = base.system.writes | chunk_writes
    view = base.parent.view.compute_child(writes)
    heads = dict(base.parent.heads)
    chunks = []
    for shard in sorted(results):
        result = results[shard]
        header = _compute_chunk_header(base, shard, result, view)
        heads[shard] = header
        chunks.append(Chunk(header, result.transactions, result.consumed))
    return Processed(base, results, tuple(chunks), view, heads)


def process_body(
    spec: ChainSpec,
    base: BlockBase,
    body: Body,
    find_chunk: FindChunk,
    verified: VerifiedCache,
) -> Processed:
    """Execute a block's chunks and compare with what their headers say.

    Raises:
        InvalidBlock: A chunk that does not follow, does not fit or does otherwise.
    """
    known = base.parent.heads
    limits = compute_block_limits(spec.params, len(known))
    results: dict[ShardId, ChunkResult] = {}
    last = -1
    for chunk in body.chunks:
        shard = chunk.header.shard
        if shard <= last or shard not in known:
            raise InvalidBlock(f"a chunk of shard {shard} after one of shard {last}")
        last = shard
        run = start_chunk(spec, base, shard, limits, verified)
        _run_chunk(run, chunk, find_chunk)
        results[shard] = run.finish()
        limits = reduce_limits(limits, run)
    processed = combine_chunks(base, results)
    for given, computed in zip(body.chunks, processed.chunks, strict=True):
        _compare(given.header, computed.header)
    return processed


def compute_emitted(
    processed: Processed, height: Height
) -> dict[tuple[ShardId, ShardId], tuple[PacketProof, ...]]:
    """Return the packets of a block's chunks with their proofs."""
    emitted: dict[tuple[ShardId, ShardId], list[PacketProof]] = {}
    for src, result in processed.results.items():
        for proof in build_packet_proofs(result.emitted, height):
            emitted.setdefault((src, proof.packet.dst), []).append(proof)
    return {place: tuple(proofs) for place, proofs in emitted.items()}


def _run_chunk(run: ChunkRun, chunk: Chunk, find_chunk: FindChunk) -> None:
    shard = chunk.header.shard
    try:
        for proof in chunk.packets:
            _verify_source(proof, find_chunk)
            run.consume(proof)
        for index, signed_bytes in enumerate(chunk.transactions):
            try:
                run.execute(signed_bytes)
            except InvalidTransaction as error:
                raise InvalidBlock(
                    f"transaction {index} of shard {shard}: {error.code}: {error}"
                ) from error
    except InvalidPacket as error:
        raise InvalidBlock(f"packet in shard {shard}: {error}") from error
    except ChunkFull as error:
        raise InvalidBlock(
            f"the chunk of shard {shard} has too many {error}"
        ) from error
    if run.is_empty:
        raise InvalidBlock(f"an empty chunk of shard {shard}")


def _verify_source(proof: PacketProof, find_chunk: FindChunk) -> None:
    source = find_chunk(proof.packet.src, proof.source_height)
    if source is None or not verify_packet_proof(proof, source.out_root):
        raise InvalidPacket(
            f"no packet {proof.packet.seq} of shard {proof.packet.src} "
            f"at height {proof.source_height}"
        )


def reduce_limits(limits: ChunkLimits, run: ChunkRun) -> ChunkLimits:
    """Return what is left of a block's limits after a chunk."""
    return ChunkLimits(
        bytes=limits.bytes - run.bytes,
        work=limits.work - run.work,
        transactions=limits.transactions,
        packets=limits.packets,
    )


def _compute_chunk_header(
    base: BlockBase, shard: ShardId, result: ChunkResult, view: StateView
) -> ChunkHeader:
    previous = base.parent.heads[shard]
    return ChunkHeader(
        shard=shard,
        epoch=base.parent.child_epoch.epoch,
        created_view=base.view,
        seq=previous.seq + 1,
        prev_chunk=compute_chunk_hash(previous),
        anchor=base.parent.block_hash,
        producer=base.proposer,
        pre_root=base.system.view.get_root(shard),
        post_root=view.get_root(shard),
        tx_root=compute_list_root(result.transactions),
        tx_count=len(result.transactions),
        in_root=compute_list_root([encode(proof) for proof in result.consumed]),
        in_cursor=result.in_cursor,
        out_count=result.out_count,
        out_root=compute_out_root(result.emitted),
        fees=result.fees,
        work=result.work,
        bytes=result.bytes,
    )


def _compare(given: ChunkHeader, computed: ChunkHeader) -> None:
    if given == computed:
        return
    for name in ChunkHeader.__struct_fields__:
        mine, theirs = getattr(computed, name), getattr(given, name)
        if mine != theirs:
            raise InvalidBlock(
                f"chunk of shard {given.shard}: {name} is {_show(theirs)}, "
                f"executing it gives {_show(mine)}"
            )


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)

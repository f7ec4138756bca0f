"""
What a block's chunks do to the state: one code for leader and validators.

A chunk header is computed from what executing the chunk brought about.  The leader
puts it into the block; a validator computes it too and wants the very same.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from chain.block import MAX_EVIDENCE, Body
from chain.chunk_context import build_context
from chain.chunk_execution import (
    ChunkBody,
    ExecutedChunk,
    fill_header,
    validate_filled,
)
from chain.chunk_state import ShardState
from chain.errors import InvalidBlock
from chain.execution import ChunkLimits, ChunkResult, ChunkRun
from chain.executor import ChunkExecutor, ChunkTask
from chain.held import HeldBlock
from chain.params import ChainParams
from chain.spec import ChainSpec, build_genesis_chunk
from chain.state import StateView
from chain.system import SystemResult
from chain.verified import VerifiedCache
from consensus.evidence import MAX_EVIDENCE_BYTES
from primitives.types import Height, ShardId
from shards.chunk import Chunk, ChunkHeader, compute_chunk_hash
from shards.errors import InvalidChunk
from shards.packet import PacketProof, build_packet_proofs, verify_packet_proof

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
    """Of the shards of the block's children."""


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


def get_state(base: BlockBase, shard: ShardId) -> ShardState:
    """Return the state on which the shard's chunk runs."""
    return ShardState(base.system.view, shard)


def start_chunk(
    spec: ChainSpec,
    base: BlockBase,
    state: ShardState,
    limits: ChunkLimits,
    verified: VerifiedCache,
) -> ChunkRun:
    """Return the run of a shard's chunk on its state.

    Raises:
        ChunkFull: What the shard has to do by itself does not fit.
    """
    context = build_context(spec, base.parent, state.shard)
    run = ChunkRun(context, state.get, limits, verified)
    run.begin(state)
    return run


def combine_chunks(
    base: BlockBase, executed: Mapping[ShardId, ExecutedChunk]
) -> Processed:
    """Return chunks and state of executed shards, in ascending order of shards."""
    before, parent = base.system.view, base.parent
    view = before.compute_child_with(
        {shard: chunk.buckets for shard, chunk in executed.items()}
    )
    ending = parent.child_epoch.layout.shard_ids
    shards = base.system.child_epoch.layout.shard_ids
    if shards != ending:
        view = view.compute_child_without(set(ending) - set(shards), shards)
    # One overlay per block, whether or not it has a system step.
    view = view.squash(parent.view)
    heads = dict(parent.heads)
    chunks = []
    for shard in sorted(executed):
        result = executed[shard].result
        header = fill_header(
            _build_place(base, shard),
            result,
            before.get_root(shard),
            view.get_root(shard),
        )
        heads[shard] = header
        chunks.append(Chunk(header, result.transactions, result.consumed))
    results = {shard: chunk.result for shard, chunk in executed.items()}
    known = view.get_roots()
    heads = {s: heads.get(s) or build_genesis_chunk(s, known[s]) for s in known}
    return Processed(base, results, tuple(chunks), view, heads)


def process_body(
    spec: ChainSpec,
    base: BlockBase,
    body: Body,
    find_chunk: FindChunk,
    verified: VerifiedCache,
    executor: ChunkExecutor,
) -> Processed:
    """Execute a block's chunks and compare with what their headers say.

    Raises:
        InvalidBlock: A chunk that does not follow, does not fit or does otherwise.
    """
    try:
        validate_chunks(spec, base, body, find_chunk)
        tasks = [_build_task(spec, base, chunk) for chunk in body.chunks]
        executed = executor.execute(tasks, verified)
        shards = [chunk.header.shard for chunk in body.chunks]
        processed = combine_chunks(base, dict(zip(shards, executed, strict=True)))
        for given, computed in zip(body.chunks, processed.chunks, strict=True):
            validate_filled(given.header, computed.header)
    except InvalidChunk as error:
        raise InvalidBlock(str(error)) from error
    return processed


def validate_chunks(
    spec: ChainSpec, base: BlockBase, body: Body, find_chunk: FindChunk
) -> None:
    """Check what can be seen of a block's chunks without executing them.

    That they fit together is checked by what their headers claim, so that each one
    can be executed for itself under no more than its own claim.

    Raises:
        InvalidChunk: Says what is wrong with which.
    """
    known = base.parent.heads
    limits = compute_block_limits(spec.params, len(known))
    last = -1
    for chunk in body.chunks:
        header = chunk.header
        if header.shard <= last or header.shard not in known:
            raise InvalidChunk(f"a chunk of shard {header.shard} after one of {last}")
        last = header.shard
        for name, claim, limit in (
            ("bytes", header.bytes, limits.bytes),
            ("work", header.work, limits.work),
        ):
            if claim > limit:
                raise InvalidChunk(
                    f"the chunk of shard {last} has too many {name}: {claim} of {limit}"
                )
        limits = reduce_limits(limits, header)
        for proof in chunk.packets:
            _verify_source(proof, find_chunk)


def compute_emitted(
    processed: Processed, height: Height
) -> dict[tuple[ShardId, ShardId], tuple[PacketProof, ...]]:
    """Return the packets of a block's chunks with their proofs."""
    emitted: dict[tuple[ShardId, ShardId], list[PacketProof]] = {}
    for src, result in processed.results.items():
        for proof in build_packet_proofs(result.emitted, height):
            emitted.setdefault((src, proof.packet.dst), []).append(proof)
    return {place: tuple(proofs) for place, proofs in emitted.items()}


def _build_task(spec: ChainSpec, base: BlockBase, chunk: Chunk) -> ChunkTask:
    header = chunk.header
    params = spec.params
    return ChunkTask(
        context=build_context(spec, base.parent, header.shard),
        state=get_state(base, header.shard),
        body=ChunkBody(chunk.packets, chunk.transactions),
        limits=ChunkLimits(
            bytes=header.bytes,
            work=header.work,
            transactions=params.chunk_transactions,
            packets=params.chunk_packets,
        ),
    )


def _verify_source(proof: PacketProof, find_chunk: FindChunk) -> None:
    source = find_chunk(proof.packet.src, proof.source_height)
    if source is None or not verify_packet_proof(proof, source.out_root):
        packet = proof.packet
        raise InvalidChunk(
            f"packet in shard {packet.dst}: no packet {packet.seq} of shard "
            f"{packet.src} at height {proof.source_height}"
        )


def reduce_limits(limits: ChunkLimits, chunk: ChunkRun | ChunkHeader) -> ChunkLimits:
    """Return what is left of a block's limits after a chunk."""
    return ChunkLimits(
        bytes=limits.bytes - chunk.bytes,
        work=limits.work - chunk.work,
        transactions=limits.transactions,
        packets=limits.packets,
    )


def _build_place(base: BlockBase, shard: ShardId) -> ChunkHeader:
    """Return the header of a chunk before anybody executed it: the place it has."""
    previous = base.parent.heads[shard]
    return msgspec.structs.replace(
        previous,
        shard=shard,
        epoch=base.parent.child_epoch.epoch,
        created_view=base.view,
        seq=previous.seq + 1,
        prev_chunk=compute_chunk_hash(previous),
        anchor=base.parent.block_hash,
        producer=base.proposer,
    )

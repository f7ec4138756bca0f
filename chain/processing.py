"""
What a block's chunks do to the state: one code for leader and validators.

A chunk header is computed from what executing the chunk brought about.  The leader
fills the root shard's chunk; those of the layer shards come certified, each from its
own producer.  A validator computes all of them too and wants the very same.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chain.block import Body
from chain.branch import Branch
from chain.chunk_context import build_context, build_context_at
from chain.chunk_execution import (
    ChunkBody,
    ExecutedChunk,
    fill_header,
    validate_filled,
)
from chain.chunk_state import ShardState
from chain.context import Context
from chain.errors import InvalidBlock
from chain.execution import ChunkLimits, ChunkResult, ChunkRun
from chain.executor import ChunkExecutor, ChunkTask
from chain.held import HeldBlock
from chain.inclusion import InclusionJudge, build_inclusion_base
from chain.limits import compute_block_limits, reduce_limits
from chain.params import ChainParams
from chain.producing import ChunkPlace, build_place
from chain.spec import ChainSpec, build_genesis_chunk
from chain.state import StateView
from chain.system import SystemResult
from chain.verified import VerifiedCache
from primitives.types import Height, ShardId
from shards.certificate import CertifiedChunk, ChunkCertificate
from shards.chunk import Chunk, ChunkHeader, compute_chunk_hash
from shards.errors import InvalidChunk, InvalidChunkCertificate, MissingAnchor
from shards.layout import ROOT_SHARD
from shards.packet import PacketProof, build_packet_proofs, verify_packet_proof


@dataclass(frozen=True, slots=True)
class BlockBase:
    """What a block's chunks stand on."""

    branch: Branch
    """Up to its parent."""
    system: SystemResult
    """Of the block's own system step."""
    view: int
    """In which it is proposed."""
    proposer: int
    """Index of its leader, who produces the root shard's chunk."""

    @property
    def parent(self) -> HeldBlock:
        """The block before."""
        return self.branch.tip


@dataclass(frozen=True, slots=True)
class Processed:
    """What a block brought about."""

    base: BlockBase

    results: Mapping[ShardId, ChunkResult]
    chunks: tuple[Chunk, ...]
    certificates: tuple[ChunkCertificate, ...]
    view: StateView
    heads: Mapping[ShardId, ChunkHeader]
    """Of the shards of the block's children."""


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
    base: BlockBase,
    executed: Mapping[ShardId, ExecutedChunk],
    certified: Sequence[CertifiedChunk],
) -> Processed:
    """Return chunks and state of executed shards, in ascending order of shards.

    Args:
        base: What they stand on.
        executed: By shard.
        certified: Those of the layer shards, ascending.

    Raises:
        InvalidChunk: Executing a certified chunk gave something else than its header.
    """
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
    places = {chunk.header.shard: chunk.header for chunk in certified}
    for shard in sorted(executed):
        result = executed[shard].result
        header = fill_header(
            places.get(shard) or _build_root_place(base),
            result,
            before.get_root(shard),
            view.get_root(shard),
        )
        if shard in places:
            validate_filled(places[shard], header)
        heads[shard] = header
        chunks.append(Chunk(header, result.transactions, result.consumed))
    results = {shard: chunk.result for shard, chunk in executed.items()}
    certificates = tuple(chunk.certificate for chunk in certified)
    known = view.get_roots()
    heads = {s: heads.get(s) or build_genesis_chunk(s, known[s]) for s in known}
    return Processed(base, results, tuple(chunks), certificates, view, heads)


def process_body(
    spec: ChainSpec,
    base: BlockBase,
    body: Body,
    judge: InclusionJudge,
    known: Mapping[bytes, ExecutedChunk],
    verified: VerifiedCache,
    executor: ChunkExecutor,
) -> Processed:
    """Execute a block's chunks and compare with what their headers say.

    Args:
        spec: The chain.
        base: What they stand on.
        body: Untrusted.
        judge: Of certified chunks.
        known: Chunks that were executed before, by hash.
        verified: Signatures checked before.
        executor: Runs the others.

    Raises:
        InvalidBlock: A chunk that does not follow, does not fit or does otherwise.
    """
    try:
        certified = validate_chunks(spec, base, body, judge)
        executed = execute_all(spec, base, body.chunks, known, verified, executor)
        processed = combine_chunks(base, executed, certified)
        for given, computed in zip(body.chunks, processed.chunks, strict=True):
            validate_filled(given.header, computed.header)
    except (InvalidChunk, InvalidChunkCertificate, MissingAnchor) as error:
        raise InvalidBlock(str(error)) from error
    return processed


def validate_chunks(
    spec: ChainSpec, base: BlockBase, body: Body, judge: InclusionJudge
) -> tuple[CertifiedChunk, ...]:
    """Check what can be seen of a block's chunks without executing them.

    That they fit together is checked by what their headers claim, so that each one
    can be executed for itself under no more than its own claim.

    Returns:
        Those of the layer shards with their certificates, ascending.

    Raises:
        InvalidChunk, MissingAnchor: Says what is wrong with which.
        InvalidChunkCertificate: Likewise.
    """
    parent = base.parent
    limits = compute_block_limits(spec.params, len(parent.heads))
    last = -1
    for chunk in body.chunks:
        header = chunk.header
        if header.shard <= last or header.shard not in parent.heads:
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
    layers = [chunk.header for chunk in body.chunks if chunk.header.shard != ROOT_SHARD]
    if len(layers) != len(body.certificates):
        raise InvalidChunk(
            f"{len(body.certificates)} certificates of {len(layers)} chunks"
        )
    inclusion = build_inclusion_base(spec, base.branch, base.view)
    certified = tuple(map(CertifiedChunk, layers, body.certificates))
    for each in certified:
        judge.judge(each, inclusion, parent.child_epoch)
    for chunk in body.chunks:
        _validate_running(chunk, inclusion.halted)
        validate_sources(chunk.packets, base.branch)
    return certified


def _validate_running(chunk: Chunk, halted: frozenset[ShardId]) -> None:
    """Check that a chunk consumes nothing of a halted shard; headers tell of others."""
    for proof in chunk.packets:
        if proof.packet.src in halted:
            raise InvalidChunk(f"packets of shard {proof.packet.src}, which is halted")


def execute_all(
    spec: ChainSpec,
    base: BlockBase,
    chunks: Sequence[Chunk],
    known: Mapping[bytes, ExecutedChunk],
    verified: VerifiedCache,
    executor: ChunkExecutor,
) -> dict[ShardId, ExecutedChunk]:
    """Return what chunks bring about, by shard.

    Raises:
        InvalidChunk: One of them cannot be executed.
    """
    executed: dict[ShardId, ExecutedChunk] = {}
    others: list[Chunk] = []
    for chunk in chunks:
        done = known.get(compute_chunk_hash(chunk.header))
        if done is None:
            others.append(chunk)
        else:
            executed[chunk.header.shard] = done
    tasks = [_build_task(spec, base, chunk) for chunk in others]
    for chunk, done in zip(others, executor.execute(tasks, verified), strict=True):
        executed[chunk.header.shard] = done
    return executed


def validate_sources(packets: Sequence[PacketProof], branch: Branch) -> None:
    """Check that packets were emitted on a branch.

    Raises:
        InvalidChunk: One was not.
    """
    for proof in packets:
        packet = proof.packet
        source = branch.find_chunk(packet.src, proof.source_height)
        if source is None or not verify_packet_proof(proof, source.out_root):
            raise InvalidChunk(
                f"packet in shard {packet.dst}: no packet {packet.seq} of shard "
                f"{packet.src} at height {proof.source_height}"
            )


def compute_emitted(
    processed: Processed, height: Height
) -> dict[tuple[ShardId, ShardId], tuple[PacketProof, ...]]:
    """Return the packets of a block's chunks with their proofs."""
    emitted: dict[tuple[ShardId, ShardId], list[PacketProof]] = {}
    for src, result in processed.results.items():
        for proof in build_packet_proofs(result.emitted, height):
            emitted.setdefault((src, proof.packet.dst), []).append(proof)
    return {place: tuple(proofs) for place, proofs in emitted.items()}


def build_chunk_context(
    spec: ChainSpec, branch: Branch, header: ChunkHeader
) -> Context:
    """Return what the rules may know in a certified chunk: its anchor is "now"."""
    epoch, moment = branch.tip.child_epoch, branch.get_moment(header.anchor)
    return build_context_at(spec, epoch, moment, header.shard)


def build_claim(params: ChainParams, header: ChunkHeader) -> ChunkLimits:
    """Return what a chunk may hold by its own header."""
    return ChunkLimits(
        bytes=header.bytes,
        work=header.work,
        transactions=params.chunk_transactions,
        packets=params.chunk_packets,
    )


def _build_task(spec: ChainSpec, base: BlockBase, chunk: Chunk) -> ChunkTask:
    header = chunk.header
    is_root = header.shard == ROOT_SHARD
    return ChunkTask(
        context=(
            build_context(spec, base.parent, ROOT_SHARD)
            if is_root
            else build_chunk_context(spec, base.branch, header)
        ),
        state=get_state(base, header.shard),
        body=ChunkBody(chunk.packets, chunk.transactions),
        limits=build_claim(spec.params, header),
    )


def _build_root_place(base: BlockBase) -> ChunkHeader:
    """Return the place of the root shard's chunk: the one that its block has."""
    epoch = base.parent.child_epoch.epoch
    place = ChunkPlace(ROOT_SHARD, epoch, base.view, base.proposer)
    return build_place(base.parent, place)

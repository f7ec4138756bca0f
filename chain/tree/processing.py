"""
What a block's chunks do to the state: one code for leader and validators.

A chunk header is computed from what executing the chunk brought about.  The leader
fills the root shard's chunk, and every validator computes it too and wants the very
same.  Those of the layer shards come certified, each from its own producer: a node
executes those of the shards that it follows and takes the others' word for granted;
see chain/tree/following.py.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chain.errors import InvalidBlock, MissingBodies
from chain.execution.chunk import (
    ChunkBody,
    ExecutedChunk,
    fill_header,
    validate_filled,
)
from chain.execution.chunk_run import ChunkLimits, ChunkResult, ChunkRun
from chain.execution.context import build_context, build_context_at
from chain.execution.executor import ChunkExecutor, ChunkTask
from chain.execution.held import HeldBlock
from chain.execution.system import SystemResult
from chain.execution.verified import VerifiedCache
from chain.ledger.context import Context
from chain.records.block import Body
from chain.records.params import ChainParams
from chain.records.spec import ChainSpec, build_genesis_chunk
from chain.state.chunk_state import ShardState
from chain.state.state import StateView
from chain.tree.branch import Branch
from chain.tree.following import FOLLOW_ALL, Follow
from chain.tree.inclusion import InclusionJudge, build_inclusion_base
from chain.tree.limits import compute_root_limits, compute_total_limits, reduce_limits
from chain.tree.producing import ChunkPlace, build_place
from primitives.types import Height, ShardId
from shards.certificate import CertifiedChunk
from shards.chunk import Chunk, ChunkHeader, compute_chunk_hash
from shards.errors import InvalidChunk, InvalidChunkCertificate, MissingAnchor
from shards.layout import ROOT_SHARD
from shards.packet import PacketProof, build_packet_proofs, verify_packet_proof

FindBody = Callable[[bytes], ChunkBody | None]
"""Returns the body of a chunk by its hash, if it is here."""


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
    follow: Follow = FOLLOW_ALL
    """Which shards we want of those that begin after this block."""

    @property
    def parent(self) -> HeldBlock:
        """The block before."""
        return self.branch.tip


@dataclass(frozen=True, slots=True)
class Processed:
    """What a block brought about."""

    base: BlockBase
    results: Mapping[ShardId, ChunkResult]
    """Of the chunks that were executed here and did what they say."""
    root: Chunk | None
    chunks: tuple[CertifiedChunk, ...]
    view: StateView
    heads: Mapping[ShardId, ChunkHeader]
    """Of the shards of the block's children."""
    followed: frozenset[ShardId]
    """Of them, those whose state the view has."""
    strayed: Mapping[ShardId, str]
    """Why a certified chunk's shard is followed no more: it executed differently."""


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
    refused: Mapping[ShardId, str],
) -> Processed:
    """Return what a block's chunks bring about together.

    Args:
        base: What they stand on.
        executed: By shard: the root shard's, and those of shards that we follow.
        certified: The layer shards' chunks, ascending.
        refused: Why a followed shard's chunk could not be executed.
    """
    before, parent = base.system.view, base.parent
    strayed = dict(refused)
    view = _compute_view(before, executed, certified, strayed)
    for header in [each.header for each in certified]:
        done = executed.get(header.shard)
        if done is None or header.shard in strayed:
            continue
        roots = before.get_root(header.shard), view.get_root(header.shard)
        try:
            validate_filled(header, fill_header(header, done.result, *roots))
        except InvalidChunk as error:
            strayed[header.shard] = str(error)
    if strayed.keys() - refused.keys():
        view = _compute_view(before, executed, certified, strayed)
    root = executed.get(ROOT_SHARD)
    chunk = None if root is None else _build_root_chunk(base, root.result, view)
    heads = dict(parent.heads) | {c.header.shard: c.header for c in certified}
    if chunk is not None:
        heads[ROOT_SHARD] = chunk.header
    followed = parent.followed - strayed.keys()
    ending = parent.child_epoch.layout.shard_ids
    layout = base.system.child_epoch.layout
    shards = layout.shard_ids
    if shards != ending:
        gone = (set(ending) - set(shards)) & followed
        view = view.compute_child_without(gone, shards)
        begun = set(shards) - set(ending)
        wanted = begun & base.follow.choose(layout)
        followed = frozenset(followed & set(shards) | wanted)
        view = view.compute_child_with(
            {}, {s: view.get_root(s) for s in begun - wanted}
        )
    # One overlay per block, whether or not it has a system step.
    view = view.squash(parent.view)
    known = view.get_roots()
    return Processed(
        base=base,
        results={s: c.result for s, c in executed.items() if s not in strayed},
        root=chunk,
        chunks=tuple(certified),
        view=view,
        heads={s: heads.get(s) or build_genesis_chunk(s, known[s]) for s in known},
        followed=followed,
        strayed=strayed,
    )


def _compute_view(
    before: StateView,
    executed: Mapping[ShardId, ExecutedChunk],
    certified: Sequence[CertifiedChunk],
    strayed: Mapping[ShardId, str],
) -> StateView:
    """Return the state after chunks: executed where we can, told where we cannot."""
    applied = {s: c.buckets for s, c in executed.items() if s not in strayed}
    told = {
        each.header.shard: each.header.post_root
        for each in certified
        if each.header.shard not in applied
    }
    return before.compute_child_with(applied, told)


def _build_root_chunk(base: BlockBase, result: ChunkResult, view: StateView) -> Chunk:
    before = base.system.view
    header = fill_header(
        _build_root_place(base),
        result,
        before.get_root(ROOT_SHARD),
        view.get_root(ROOT_SHARD),
    )
    return Chunk(header, result.transactions, result.consumed)


def process_body(
    spec: ChainSpec,
    base: BlockBase,
    body: Body,
    bodies: FindBody,
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
        bodies: Finds the bodies of layer shards' chunks.
        judge: Of certified chunks.
        known: Chunks that were executed before, by hash.
        verified: Signatures checked before.
        executor: Runs the others.

    Raises:
        InvalidBlock: A chunk that does not follow or does not fit, or one of the root
            shard that does otherwise.
        MissingBodies: Nothing is wrong yet, and not all can be executed.
    """
    try:
        validate_chunks(spec, base, body, judge)
        executed, refused = execute_all(
            spec, base, body.root, body.chunks, bodies, known, verified, executor
        )
        processed = combine_chunks(base, executed, body.chunks, refused)
        if body.root is not None:
            assert processed.root is not None, "it was executed"
            validate_filled(body.root.header, processed.root.header)
    except (InvalidChunk, InvalidChunkCertificate, MissingAnchor) as error:
        raise InvalidBlock(str(error)) from error
    return processed


def validate_chunks(
    spec: ChainSpec, base: BlockBase, body: Body, judge: InclusionJudge
) -> None:
    """Check that a block may hold its chunks; that needs no chunk's body.

    That they fit together is checked by what their headers claim, so that each one
    can be executed for itself under no more than its own claim.

    Raises:
        InvalidChunk, MissingAnchor: Says what is wrong with which.
        InvalidChunkCertificate: Likewise.
    """
    parent, shards = base.parent, len(base.parent.heads)
    left = compute_total_limits(spec.params, shards)
    taken = sum(each.header.work for each in body.chunks)
    root = body.root
    if root is not None and root.header.shard != ROOT_SHARD:
        raise InvalidChunk(f"a chunk of shard {root.header.shard} as the root shard's")
    last = -1
    for header in body.headers:
        if header.shard <= last or header.shard not in parent.heads:
            raise InvalidChunk(f"a chunk of shard {header.shard} after one of {last}")
        last = header.shard
        is_root = last == ROOT_SHARD
        limits = compute_root_limits(spec.params, shards, taken) if is_root else left
        for name, claim, limit in (
            ("bytes", header.bytes, limits.bytes),
            ("work", header.work, limits.work),
        ):
            if claim > limit:
                raise InvalidChunk(
                    f"the chunk of shard {last} has too many {name}: {claim} of {limit}"
                )
        if not is_root:
            left = reduce_limits(left, header)
    inclusion = build_inclusion_base(spec, base.branch, base.view)
    if any(each.header.shard == ROOT_SHARD for each in body.chunks):
        raise InvalidChunk("a chunk of shard 0 with a certificate")
    judge.judge(body.chunks, inclusion, parent.child_epoch)
    if root is not None:
        _validate_running(root, inclusion.halted)


def _validate_running(chunk: Chunk, halted: frozenset[ShardId]) -> None:
    """Check that a chunk consumes nothing of a halted shard; headers tell of others."""
    for proof in chunk.packets:
        if proof.packet.src in halted:
            raise InvalidChunk(f"packets of shard {proof.packet.src}, which is halted")


def execute_all(
    spec: ChainSpec,
    base: BlockBase,
    root: Chunk | None,
    certified: Sequence[CertifiedChunk],
    bodies: FindBody,
    known: Mapping[bytes, ExecutedChunk],
    verified: VerifiedCache,
    executor: ChunkExecutor,
) -> tuple[dict[ShardId, ExecutedChunk], dict[ShardId, str]]:
    """Return what chunks bring about, and why others cannot be executed, by shard.

    Args:
        spec: The chain.
        base: What they stand on.
        root: The root shard's chunk.
        certified: Those of layer shards; only followed ones are executed.
        bodies: Finds their bodies.
        known: Chunks that were executed before, by hash.
        verified: Signatures checked before.
        executor: Runs the others.

    Raises:
        InvalidChunk: The root shard's cannot be executed.
        MissingBodies: Not all bodies are here.
    """
    executed: dict[ShardId, ExecutedChunk] = {}
    refused: dict[ShardId, str] = {}
    chunks = [] if root is None else [root]
    missing = []
    for header in [each.header for each in certified]:
        if header.shard not in base.parent.followed:
            continue
        chunk_hash = compute_chunk_hash(header)
        done, body = known.get(chunk_hash), bodies(chunk_hash)
        if done is not None:
            executed[header.shard] = done
        elif body is None:
            missing.append(header)
        else:
            chunks.append(Chunk(header, body.transactions, body.packets))
    if missing:
        raise MissingBodies(missing)
    tasks = []
    for chunk in chunks:
        shard = chunk.header.shard
        try:
            validate_sources(chunk.packets, base.branch)
        except InvalidChunk as error:
            if shard == ROOT_SHARD:
                raise
            refused[shard] = str(error)
        else:
            tasks.append(_build_task(spec, base, chunk))
    try:
        results = executor.execute(tasks, verified)
        for task, done in zip(tasks, results, strict=True):
            executed[task.context.shard] = done
    except InvalidChunk:
        # One of them; which one decides whose fault it is.
        for task in tasks:
            shard = task.context.shard
            try:
                (executed[shard],) = executor.execute([task], verified)
            except InvalidChunk as error:
                if shard == ROOT_SHARD:
                    raise
                refused[shard] = str(error)
    return executed, refused


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

"""Building a block: which packets and transactions go in, in which order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from chain.execution.chunk import ExecutedChunk, finish_chunk
from chain.execution.executor import InProcess
from chain.execution.verified import VerifiedCache
from chain.records.block import (
    Attendance,
    Block,
    Body,
    compute_attendance_root,
    compute_certificates_root,
    compute_chunks_root,
    compute_evidence_root,
    compute_heads_root,
    compute_roots_root,
)
from chain.records.header import HEADER_VERSION, Header
from chain.records.spec import ChainSpec
from chain.records.transaction import SignedTransaction
from chain.tree.inclusion import InclusionJudge, build_inclusion_base
from chain.tree.limits import compute_root_limits, compute_total_limits, reduce_limits
from chain.tree.processing import (
    BlockBase,
    FindBody,
    Processed,
    combine_chunks,
    execute_all,
    get_state,
    start_chunk,
)
from chain.tree.producing import fill_chunk
from consensus.randao import compute_mix
from primitives.types import ShardId
from shards.certificate import CertifiedChunk
from shards.chunk import compute_chunk_hash
from shards.errors import InvalidChunk, InvalidChunkCertificate, MissingAnchor
from shards.layout import ROOT_SHARD

ReadState = Callable[[bytes], bytes | None]


class Picker(Protocol):
    """Where a leader finds transactions; the mempool fits as it is."""

    def get_waiting(self, shard: ShardId) -> int:
        """Return about how many transactions wait for the shard."""

    def pick(
        self, shard: ShardId, read: ReadState
    ) -> Iterator[tuple[bytes, SignedTransaction]]:
        """Yield candidates in the order of preference, per sender by nonce.

        Args:
            shard: Where they run.
            read: The shard's state at the parent block.
        """


def build_chunks(
    spec: ChainSpec,
    base: BlockBase,
    offered: Sequence[CertifiedChunk],
    bodies: FindBody,
    picker: Picker,
    judge: InclusionJudge,
    known: Mapping[bytes, ExecutedChunk],
    verified: VerifiedCache,
    on_stray: Callable[[Processed], None],
) -> Processed:
    """Choose the layer shards' chunks of a block and fill the root shard's.

    The root shard keeps an equal share of the block, so that no load keeps stakes and
    evidence out; of the others the oldest come first.

    Args:
        spec: The chain.
        base: What they stand on.
        offered: Certified chunks; what does not fit or follow is left out, and what we
            cannot follow for want of its body.
        bodies: Finds the bodies of the chunks of shards that we follow.
        picker: Candidates for the root shard's chunk.
        judge: Of certified chunks.
        known: Chunks that were executed before, by hash.
        verified: Signatures checked before.
        on_stray: Told of chunks that are left out because they are wrong.
    """
    at_hand = []
    for each in offered:
        chunk_hash = compute_chunk_hash(each.header)
        is_followed = each.header.shard in base.parent.followed
        if not is_followed or chunk_hash in known or bodies(chunk_hash) is not None:
            at_hand.append(each)
    chosen = _choose(spec, base, at_hand, judge)
    executed, refused = execute_all(
        spec, base, None, chosen, bodies, known, verified, InProcess()
    )
    taken = sum(each.header.work for each in chosen)
    left = compute_root_limits(spec.params, len(base.parent.heads), taken)
    state = get_state(base, ROOT_SHARD)
    run = start_chunk(spec, base, state, left, verified)
    inbox = base.branch.get_inbox(ROOT_SHARD, spec.params.chunk_packets)
    fill_chunk(run, left, inbox, picker.pick(ROOT_SHARD, state.get))
    if not run.is_empty:
        executed[ROOT_SHARD] = finish_chunk(run, state)
    processed = combine_chunks(base, executed, chosen, refused)
    if processed.strayed:
        # Certified, and not what it says: nobody builds on that who knows.
        on_stray(processed)
        good = [each for each in chosen if each.header.shard not in processed.strayed]
        return build_chunks(
            spec, base, good, bodies, picker, judge, known, verified, on_stray
        )
    return processed


def _choose(
    spec: ChainSpec,
    base: BlockBase,
    offered: Sequence[CertifiedChunk],
    judge: InclusionJudge,
) -> list[CertifiedChunk]:
    """Return the layer shards' chunks that go in, ascending by shard."""
    inclusion = build_inclusion_base(spec, base.branch, base.view)
    left = compute_total_limits(spec.params, len(base.parent.heads))
    chosen: dict[ShardId, CertifiedChunk] = {}
    for each in sorted(offered, key=lambda o: o.header.created_view):
        header = each.header
        after = reduce_limits(left, header)
        if header.shard in chosen or min(after.bytes, after.work) < 0:
            continue
        try:
            judge.judge([each], inclusion, base.parent.child_epoch)
        except (InvalidChunk, InvalidChunkCertificate, MissingAnchor):
            # It was good for another parent.
            continue
        chosen[header.shard] = each
        left = after
    return [chosen[shard] for shard in sorted(chosen)]


def build_block(
    spec: ChainSpec,
    processed: Processed,
    *,
    reveal: bytes,
    attendance: Attendance,
    evidence: tuple[bytes, ...],
    time_ms: int,
) -> Block:
    """Return the block around processed chunks."""
    base = processed.base
    parent, epoch = base.parent, base.parent.child_epoch
    body = Body(processed.root, processed.chunks, attendance, evidence)
    header = Header(
        version=HEADER_VERSION,
        chain_id=spec.chain_id,
        epoch=epoch.epoch,
        view=base.view,
        height=parent.height + 1,
        parent_hash=parent.block_hash,
        parent_view=parent.child_parent_view,
        time_ms=time_ms,
        proposer=base.proposer,
        reveal=reveal,
        mix=compute_mix(parent.header.mix, reveal),
        chunks_root=compute_chunks_root(body.headers),
        certificates_root=compute_certificates_root(body.certificates),
        heads_root=compute_heads_root(processed.heads),
        roots_root=compute_roots_root(processed.view.get_roots()),
        attendance_root=compute_attendance_root(attendance),
        evidence_root=compute_evidence_root(evidence),
        valset_root=epoch.valset_root,
        next_valset_root=epoch.next_valset_root,
        layout_root=epoch.layout_root,
        next_layout_root=epoch.next_layout_root,
    )
    return Block(header, body)

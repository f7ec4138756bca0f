"""
Certified chunks in blocks: what a block on some branch may hold.

The rules are those of shards/inclusion.py; here is what they need to know of the
chain, and each certificate's one verification: those that are new in a block together.

Spec: docs/protocol/06-shards.md
"""

from collections import OrderedDict
from collections.abc import Sequence

from chain.execution.steps import MAX_STEP_PACKETS
from chain.ledger.epochs import EpochState, compute_first_height
from chain.records.spec import ChainSpec
from chain.tree.branch import Branch
from chain.tree.limits import compute_layer_limits
from consensus.scheme import SignatureScheme
from primitives.codec import encode
from primitives.hashing import compute_hash
from primitives.types import View
from shards.certificate import (
    CertifiedChunk,
    read_chunk_certificate,
    verify_endorsements,
)
from shards.inclusion import ChunkBounds, InclusionBase, validate_inclusion
from shards.slots import get_slot

MAX_VERIFIED = 4096
"""Certificates remembered: 64 shards over a minute; 200 KB."""


def build_inclusion_base(spec: ChainSpec, branch: Branch, view: View) -> InclusionBase:
    """Return what the chunks of a block of `view` on a branch's tip are judged by."""
    tip = branch.tip
    epoch = tip.child_epoch.epoch
    limits = compute_layer_limits(spec.params, len(tip.heads))
    return InclusionBase(
        epoch=epoch,
        view=view,
        root_height=compute_first_height(epoch, spec.params.epoch_blocks) - 1,
        heads=tip.heads,
        halted=branch.halted,
        bounds=ChunkBounds(
            bytes=limits.bytes,
            work=limits.work,
            transactions=limits.transactions,
            packets=limits.packets,
            backlog=spec.params.backlog_limit,
            moves=MAX_STEP_PACKETS,
        ),
        find_anchor=branch.find_anchor,
        find_head=branch.find_head,
    )


class InclusionJudge:
    """Judges certified chunks of one chain; verifies each certificate once."""

    def __init__(
        self, chain_id: bytes, scheme: SignatureScheme, capacity: int = MAX_VERIFIED
    ) -> None:
        self._chain_id = chain_id
        self._scheme = scheme
        self._capacity = capacity
        self._verified: OrderedDict[bytes, None] = OrderedDict()

    def judge(
        self,
        certified: Sequence[CertifiedChunk],
        base: InclusionBase,
        epoch: EpochState,
    ) -> None:
        """Check that a block may hold chunks, each for itself.

        Signatures come last, and all of a block's that are new in one check.

        Args:
            certified: Untrusted.
            base: Of the block.
            epoch: Of the block.

        Raises:
            InvalidChunk, MissingAnchor: One does not follow there.
            InvalidChunkCertificate: The endorsements of one do not count.
        """
        fresh, endorsed = [], []
        for each in certified:
            header, slot = each.header, get_slot(each.header)
            roles = epoch.roles
            producers = roles.get_producers(slot) if roles.has_slot(slot) else ()
            validate_inclusion(header, base, producers)
            if _compute_name(each) in self._verified:
                continue
            fresh.append(each)
            endorsed.append(
                read_chunk_certificate(
                    header,
                    each.certificate,
                    roles.get_committee(slot),
                    epoch.validators,
                    self._chain_id,
                )
            )
        verify_endorsements(endorsed, self._scheme)
        for each in fresh:
            self.remember(each)

    def remember(self, certified: CertifiedChunk) -> None:
        """Take note of a certificate that was verified, here or by the desk."""
        self._verified[_compute_name(certified)] = None
        if len(self._verified) > self._capacity:
            self._verified.popitem(last=False)


def _compute_name(certified: CertifiedChunk) -> bytes:
    return compute_hash("certified", encode(certified))

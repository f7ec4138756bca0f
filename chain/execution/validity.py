"""
Block validity, all of it that does not need execution.

Checks come in the order of their cost: fields, then two BLS verifications.

Spec: docs/protocol/03-blocks-and-state.md
"""

from chain.errors import BodyMismatch, InvalidBlock, InvalidBody
from chain.execution.bodies import validate_chunk_body
from chain.execution.chunk import ChunkBody
from chain.execution.held import HeldBlock
from chain.records.block import (
    NO_ATTENDANCE,
    Attendance,
    Block,
    compute_attendance_root,
    compute_certificates_root,
    compute_chunks_root,
    compute_evidence_root,
)
from chain.records.header import HEADER_VERSION, Header, build_proposal
from chain.records.spec import ChainSpec
from consensus.certificates import verify_attendance
from consensus.leader import compute_leader
from consensus.messages import Proposal
from consensus.randao import compute_mix, compute_reveal_bytes
from consensus.scheme import SignatureScheme
from primitives.types import TimeMs


def validate_body(block: Block) -> None:
    """Check that the body is the one that the header commits to.

    Raises:
        BodyMismatch: It is another one; the block of that hash may still be good.
    """
    header, body = block.header, block.body
    if compute_chunks_root(body.headers) != header.chunks_root:
        raise BodyMismatch("the chunks are not those of chunks_root")
    if compute_certificates_root(body.certificates) != header.certificates_root:
        raise BodyMismatch("the certificates are not those of certificates_root")
    if compute_attendance_root(body.attendance) != header.attendance_root:
        raise BodyMismatch("the attendance is not that of attendance_root")
    if compute_evidence_root(body.evidence) != header.evidence_root:
        raise BodyMismatch("the evidence is not that of evidence_root")
    if body.root is not None:
        try:
            validate_chunk_body(
                body.root.header, ChunkBody(body.root.packets, body.root.transactions)
            )
        except InvalidBody as error:
            raise BodyMismatch(str(error)) from error


def validate_proposal(header: Header, block_hash: bytes, proposal: Proposal) -> None:
    """Check that a header says what was voted on.

    Raises:
        InvalidBlock: It says something else.
    """
    own = build_proposal(header, block_hash)
    for name in Proposal.__struct_fields__:
        if getattr(own, name) != getattr(proposal, name):
            raise InvalidBlock(
                f"{name} is {getattr(own, name)!r}, "
                f"the proposal says {getattr(proposal, name)!r}"
            )


def validate_header(
    spec: ChainSpec,
    parent: HeldBlock,
    header: Header,
    attendance: Attendance,
    now_ms: TimeMs,
    scheme: SignatureScheme,
) -> None:
    """Check a header against its parent, the chain and the clock.

    Raises:
        InvalidBlock: The first thing that is wrong.
    """
    _validate_fields(spec, parent, header, now_ms)
    epoch = parent.child_epoch.config
    leader = compute_leader(epoch.seed, header.view, epoch.validators)
    if header.proposer != leader:
        raise InvalidBlock(
            f"validator {header.proposer} leads view {header.view}, it is {leader}'s"
        )
    message = compute_reveal_bytes(spec.chain_id, header.epoch, header.view)
    public_key = epoch.validators.validators[leader].public_key
    if not scheme.verify(public_key, message, header.reveal):
        raise InvalidBlock("the reveal is not the leader's")
    if header.mix != compute_mix(parent.header.mix, header.reveal):
        raise InvalidBlock("the mix is not the hash of parent mix and reveal")
    _validate_attendance(spec, parent, attendance, scheme)


def _validate_fields(
    spec: ChainSpec, parent: HeldBlock, header: Header, now_ms: TimeMs
) -> None:
    expected = {
        "version": HEADER_VERSION,
        "chain_id": spec.chain_id,
        "epoch": parent.child_epoch.epoch,
        "height": parent.height + 1,
        "parent_hash": parent.block_hash,
        "parent_view": parent.child_parent_view,
        "valset_root": parent.child_epoch.valset_root,
        "next_valset_root": parent.child_epoch.next_valset_root,
        "layout_root": parent.child_epoch.layout_root,
        "next_layout_root": parent.child_epoch.next_layout_root,
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            raise InvalidBlock(f"{name} is {getattr(header, name)!r}, not {value!r}")
    if header.view <= header.parent_view:
        raise InvalidBlock(f"view {header.view} after view {header.parent_view}")
    if header.time_ms <= parent.header.time_ms:
        raise InvalidBlock(
            f"time {header.time_ms} ms, the parent's is {parent.header.time_ms}"
        )
    if header.time_ms > now_ms + spec.params.max_drift_ms:
        raise InvalidBlock(f"time {header.time_ms} ms, now it is {now_ms}")


def _validate_attendance(
    spec: ChainSpec,
    parent: HeldBlock,
    attendance: Attendance,
    scheme: SignatureScheme,
) -> None:
    if parent.is_epoch_root:
        if attendance != NO_ATTENDANCE:
            raise InvalidBlock("attendance for a root, which this set did not vote for")
        return
    if not verify_attendance(
        parent.proposal,
        attendance.bitmap,
        attendance.signature,
        parent.child_epoch.validators,
        spec.chain_id,
        scheme,
    ):
        raise InvalidBlock("the attendance is not a quorum's votes for the parent")

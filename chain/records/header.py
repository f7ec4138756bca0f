"""
The block header: what consensus agrees on, by its hash.

Spec: docs/protocol/03-blocks-and-state.md
"""

from consensus.messages import Proposal
from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.types import (
    U8,
    U16,
    BlsSignature,
    Epoch,
    Hash32,
    Height,
    TimeMs,
    View,
)

HEADER_VERSION = 3


class Header(Record):
    """Everything that a light client needs to know of a block."""

    version: U8
    chain_id: Hash32
    epoch: Epoch
    view: View
    """The view in which the block was proposed."""
    height: Height
    parent_hash: Hash32
    parent_view: View
    time_ms: TimeMs
    """Grows strictly from block to block."""
    proposer: U16
    """Index of the leader in the validator set."""
    reveal: BlsSignature
    """The leader's signature over epoch and view: nobody's choice, so a lot."""
    mix: Hash32
    """Hash of the parent's mix and the reveal."""
    chunks_root: Hash32
    """Merkle root over the headers of the chunks in the body."""
    certificates_root: Hash32
    """Merkle root over the certificates of the chunks in the body."""
    heads_root: Hash32
    """Merkle root over every shard's newest chunk header, of this block or before."""
    roots_root: Hash32
    """Merkle root over (shard, state root) of every shard of the layout."""
    attendance_root: Hash32
    evidence_root: Hash32
    valset_root: Hash32
    next_valset_root: Hash32
    layout_root: Hash32
    """Merkle root over the shards of the epoch's layout."""
    next_layout_root: Hash32
    """Of the layout of the epoch after."""


def compute_block_hash(header: Header) -> bytes:
    """Return the name of the block."""
    return compute_hash("block", encode(header))


def build_proposal(header: Header, block_hash: bytes) -> Proposal:
    """Return what the validators voted on when they voted for this block."""
    return Proposal(
        epoch=header.epoch,
        view=header.view,
        parent_view=header.parent_view,
        parent_hash=header.parent_hash,
        block_hash=block_hash,
        height=header.height,
    )

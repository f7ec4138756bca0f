"""
What nodes ask each other about the chain: requests on direct streams.

    consensus/status        Status -> Status
    consensus/block         block hash -> encoded block
    consensus/certificates  CertificatesRequest -> CertificatesAnswer
    consensus/final         FinalRequest -> FinalRange
    chunks/body             chunk hash -> encoded body
    chunks/packets          PacketsRequest -> PacketsAnswer
    chunks/produced         chunk hash -> chunk with its witness (p2pchain/node/chain)
    state/values            Question -> ValuesAnswer (p2pchain/node/chain)
"""

from typing import Annotated

from msgspec import Meta

from chain.execution.bodies import MAX_BODY_BYTES
from consensus.messages import Certificate
from primitives.codec import Record
from primitives.types import U63, Epoch, Hash32, Height, ShardId, View
from shards.packet import PacketProof

STATUS = "consensus/status"
BLOCK = "consensus/block"
CERTIFICATES = "consensus/certificates"
FINAL = "consensus/final"
BODY = "chunks/body"
PACKETS = "chunks/packets"

MAX_RANGE_BLOCKS = 256
"""Blocks in one answer; small blocks travel in large lots."""
RANGE_BYTES = 1280 * 1024
"""An answer ends after this much, with the block and bodies that go over it."""
MAX_RANGE_BYTES = 4 * 1024 * 1024
"""The longest answer: the lot, one more block with its bodies, which have 1.5 MiB
together (chain/tree/limits.py), and a certificate."""
MAX_SHARDS = 64
"""More than a layout can have."""
MAX_RANGE_BODIES = MAX_RANGE_BLOCKS * MAX_SHARDS
MAX_PACKETS = 256
"""In one answer: at 1.5 KiB at most 400 KiB; the rest is asked for next."""
MAX_PACKETS_BYTES = 512 * 1024
MAX_SMALL_BYTES = 4096
"""A request, a status or a view's certificates."""


class Status(Record):
    """Where a node stands."""

    epoch: Epoch
    view: View
    height: Height
    """Of its last final block."""


class CertificatesRequest(Record):
    """Give me all that you hold of this view, or how the epoch ended if it is over."""

    epoch: Epoch
    view: View


class CertificatesAnswer(Record):
    """At most one of each kind."""

    certificates: Annotated[tuple[Certificate, ...], Meta(max_length=3)]


class FinalRequest(Record):
    """Give me final blocks from this height on."""

    height: Height
    shards: Annotated[tuple[ShardId, ...], Meta(max_length=MAX_SHARDS)]
    """Layer shards of which the asker wants the chunks' bodies too."""


class PacketsRequest(Record):
    """Give me packets of a chunk."""

    chunk_hash: Hash32
    dst: ShardId
    first: U63
    """Number of the first one; those after it follow, as many as fit."""


class PacketsAnswer(Record):
    """In ascending order; of one chunk."""

    packets: Annotated[tuple[PacketProof, ...], Meta(max_length=MAX_PACKETS)]


class NamedBody(Record):
    """The body of a chunk."""

    chunk_hash: Hash32
    data: Annotated[bytes, Meta(max_length=MAX_BODY_BYTES)]


class FinalRange(Record):
    """Final blocks in order, and what made the last of them final.

    The certificate may be of a later block of the epoch: then the next request
    continues the lot.  No range goes beyond the boundary of an epoch.
    """

    blocks: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=256)]
    certificate: Certificate
    bodies: Annotated[tuple[NamedBody, ...], Meta(max_length=MAX_RANGE_BODIES)]
    """Of the blocks' chunks in the shards asked for, as far as they are at hand."""

"""
What simulated nodes ask each other, and what they answer.

The same questions as p2pchain.node.consensus.sync_messages.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chain.snapshots.snapshot import SnapshotShard
from consensus.messages import Certificate
from shards.packet import PacketProof

if TYPE_CHECKING:
    from p2pchain.sim.node import Node


MAX_RANGE = 8
"""Blocks in a range; few, so that runs of some dozen blocks need several."""


@dataclass(frozen=True, slots=True)
class AskStatus:
    """Where are you?  Here is where I am."""

    height: int


@dataclass(frozen=True, slots=True)
class AskBlock:
    """Give me this block."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class AskBody:
    """Give me the body of this chunk."""

    chunk_hash: bytes


@dataclass(frozen=True, slots=True)
class AskPackets:
    """Give me what this chunk sent to a shard, from this number on."""

    chunk_hash: bytes
    dst: int
    first: int


@dataclass(frozen=True, slots=True)
class AskProof:
    """Give me this fraud proof."""

    proof_hash: bytes


@dataclass(frozen=True, slots=True)
class AskShard:
    """Give me the state of this shard after this boundary."""

    block_hash: bytes
    shard: int


@dataclass(frozen=True, slots=True)
class ShardState:
    """All of it."""

    frontier: SnapshotShard
    parts: tuple[bytes, ...]
    """Those that have a pair, in order."""


@dataclass(frozen=True, slots=True)
class AskCertificates:
    """Give me what you hold of this view."""

    epoch: int
    view: int


@dataclass(frozen=True, slots=True)
class AskRange:
    """Give me final blocks from this height on."""

    height: int


@dataclass(frozen=True, slots=True)
class Range:
    """Final blocks in order, and what made the last of them final."""

    blocks: tuple[bytes, ...]
    bodies: tuple[dict[bytes, bytes], ...]
    """Of each block's chunks, by chunk hash, as far as they were at hand."""
    certificate: Certificate


Question = (
    AskStatus
    | AskBlock
    | AskBody
    | AskPackets
    | AskProof
    | AskShard
    | AskCertificates
    | AskRange
)
Answer = (
    int | bytes | tuple[Certificate, ...] | tuple[PacketProof, ...] | ShardState | Range
)


def answer(node: "Node", question: Question, asker: str) -> Answer | None:
    """Return an honest node's answer; None where it has none."""
    match question:
        case AskStatus():
            node.requests.note_height(asker, question.height)
            return node.chain.final_height
        case AskBlock():
            return node.chain.get_block_bytes(question.block_hash)
        case AskBody():
            return node.chain.get_body(question.chunk_hash)
        case AskPackets():
            return node.chain.list_sent(
                question.chunk_hash, question.dst, question.first
            )
        case AskProof():
            return node.chain.get_proof(question.proof_hash)
        case AskShard():
            return node.chain.collect_state(question.block_hash, question.shard)
        case AskCertificates():
            if question.epoch != node.epoch.epoch:
                return ()
            return node.book.get_certificates(question.view)
        case AskRange():
            return _collect_range(node, question.height)


def _collect_range(node: "Node", height: int) -> Range | None:
    blocks: list[bytes] = []
    last: Certificate | None = None
    while len(blocks) < MAX_RANGE:
        found = node.chain.get_final(height + len(blocks))
        if found is None or (last is not None and found[1].epoch != last.epoch):
            break
        blocks.append(found[0])
        last = found[1]
    bodies = tuple(node.chain.collect_bodies(block) for block in blocks)
    return None if last is None else Range(tuple(blocks), bodies, last)

"""
Gossip topics, priority classes and the budget of each topic.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType

KIB = 1024
MIB = 1024 * KIB


class Priority(IntEnum):
    """Classes of outgoing traffic; the smaller goes first."""

    CONSENSUS = 0
    BLOCKS = 1
    ACTIVATIONS = 2
    """Tensors between stages and small requests; the default of streams."""
    TRANSACTIONS = 3
    BULK = 4
    """Weights and history."""


class Topic(IntEnum):
    """What gossip is about; the value is the topic's number on the wire."""

    CONSENSUS = 1
    BLOCKS = 2
    TRANSACTIONS = 3
    WORK = 4
    EVIDENCE = 5
    CHUNKS = 6


class Verdict(Enum):
    """What a check thinks of a gossip message."""

    ACCEPT = "accept"
    """Valid: it is forwarded."""
    IGNORE = "ignore"
    """Of no use to us: dropped, and nobody pays."""
    REJECT = "reject"
    """No correct node sends it: dropped, and the sender pays."""


@dataclass(frozen=True, slots=True)
class TopicParams:
    """Priority and bounds of one topic."""

    priority: Priority
    max_bytes: int
    """Longest message; longer ones are a fault."""
    count_per_s: int
    """Messages per second from one peer, as a long-term mean."""
    bytes_per_s: int
    """Bytes per second from one peer, as a long-term mean."""
    queue_count: int = 4096
    """Messages waiting for one peer to read, or for our check, per peer."""
    queue_bytes: int = 8 * MIB
    """Bytes waiting likewise: a second of the budget, or 64 peers would not fit."""


@dataclass(frozen=True, slots=True)
class ProtocolParams:
    """Priority and bound of one protocol of direct streams."""

    priority: Priority = Priority.ACTIVATIONS
    """Class of what we send on its streams."""
    max_message_bytes: int | None = None
    """Longest message we take; None for the network's own bound."""


BURST_S = 4
"""Seconds of budget that may be used at once: two block times and a hiccup."""

TOPICS: Mapping[Topic, TopicParams] = MappingProxyType(
    {
        # A vote is about 200 bytes, a certificate with attendance below 1 KiB; 128
        # validators in a one-second view send some 500 of them through one peer.
        Topic.CONSENSUS: TopicParams(
            Priority.CONSENSUS, 256 * KIB, 4000, 4 * MIB, queue_bytes=4 * MIB
        ),
        # One encoded block is at most 4 MiB (primitives.codec) and some envelope.
        Topic.BLOCKS: TopicParams(
            Priority.BLOCKS, 4 * MIB + 64 * KIB, 64, 16 * MIB, 64, 16 * MIB
        ),
        Topic.TRANSACTIONS: TopicParams(
            Priority.TRANSACTIONS, 128 * KIB, 4000, 4 * MIB, queue_bytes=4 * MIB
        ),
        Topic.WORK: TopicParams(
            Priority.TRANSACTIONS, 128 * KIB, 2000, 2 * MIB, queue_bytes=2 * MIB
        ),
        # A piece is at most 1 KiB, and there is one per validator at the very most.
        Topic.EVIDENCE: TopicParams(
            Priority.CONSENSUS, KIB, 32, 32 * KIB, 256, 256 * KIB
        ),
        # A chunk with its witness is at most 4 MiB; 128 endorsements of 64 shards each
        # second would be the most that a view can see.
        Topic.CHUNKS: TopicParams(
            Priority.BLOCKS, 4 * MIB + 64 * KIB, 8192, 16 * MIB, 8192, 16 * MIB
        ),
    }
)

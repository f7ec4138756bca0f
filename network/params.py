"""Every bound and interval of the network, with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from network.topics import KIB, MIB, TOPICS, Topic, TopicParams


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkParams:
    """What an operator or a test may change; the defaults suit a validator."""

    topics: Mapping[Topic, TopicParams] = field(default_factory=lambda: TOPICS)

    # Connections
    max_connections: int = 64
    """Flood gossip costs one copy per connection; 64 reach any small net in two."""
    max_connections_per_ip: int = 8
    """A few nodes behind one household router; loopback is exempt."""
    handshake_timeout_s: float = 5.0
    """Two round trips, even over a satellite and with a busy core."""
    max_handshakes: int = 32
    """Unfinished ones at once; each costs 0.3 ms of CPU and a few KiB."""
    max_handshakes_per_ip: int = 4
    """Of those, from one address; loopback is exempt."""
    dial_timeout_s: float = 4.0
    """Per address, until TCP is connected."""
    redial_min_s: float = 0.25
    redial_max_s: float = 10.0
    """Bounds of the back-off for persistent endpoints."""
    duplicate_grace_s: float = 1.0
    """How long a connection that lost against its twin still takes new streams."""

    # Liveness
    ping_interval_s: float = 5.0
    max_missed_pings: int = 3
    """Unanswered pings until a link counts as half-open."""
    write_timeout_s: float = 10.0
    """For one batch of at most 48 KiB: slower than 5 KiB/s is of no use to anyone."""
    queue_age_s: float = 10.0
    """A peer whose full queue of votes or blocks begins with one this old is dropped;
    the full queues of other topics only lose."""

    # Streams
    max_message_bytes: int = 64 * MIB
    """Longest message of a stream that we take or send; at most MAX_MESSAGE_BYTES."""
    max_streams: int = 256
    """Streams that each side may have open in one connection."""
    max_handlers: int = 256
    """Handlers that one peer may keep running here, over all its connections."""
    reserve_bytes: int = 512 * MIB
    """Memory for long messages on the way in, all peers together."""
    reserve_bytes_per_peer: int = 128 * MIB
    """Two of the longest messages at once from one peer."""
    stall_s: float = 30.0
    min_message_rate: int = 256 * KIB
    """A message must arrive within `stall_s` plus its size at this rate per second,
    or a peer could hold reserved memory for ever."""

    # Gossip
    seen_count: int = 200_000
    """Hashes remembered, about 20 MB; two minutes of a full transaction budget."""
    seen_s: float = 120.0
    """A message older than this has left every queue."""

    # Known endpoints
    max_known_peers: int = 1024
    max_endpoints_per_peer: int = 4

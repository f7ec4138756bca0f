"""Token buckets: so much per second, and a little at once."""

from network.topics import BURST_S, TopicParams

RECEIVER_SLACK = 1.5
"""A receiver allows more than a sender uses: the network bunches messages up."""


class TokenBucket:
    """Holds up to `capacity` tokens and gains `rate_per_s`; starts full."""

    __slots__ = ("_capacity", "_rate_per_s", "_seen_at", "_tokens")

    def __init__(self, rate_per_s: float, capacity: float) -> None:
        self._rate_per_s = rate_per_s
        self._capacity = capacity
        self._tokens = capacity
        self._seen_at: float | None = None

    def take(self, amount: float, now: float) -> bool:
        """Take `amount` tokens at `now` (seconds); False, and nothing, if too few."""
        if self.get_level(now) < amount:
            return False
        self._tokens -= amount
        return True

    def get_level(self, now: float) -> float:
        """Return the tokens there are at `now`; time never runs backwards."""
        if self._seen_at is not None and now > self._seen_at:
            gained = (now - self._seen_at) * self._rate_per_s
            self._tokens = min(self._capacity, self._tokens + gained)
        self._seen_at = now if self._seen_at is None else max(now, self._seen_at)
        return self._tokens


class TopicBudget:
    """Messages and bytes of one topic between two peers.

    Senders keep within it, so that an honest peer never exceeds what the receiver,
    with some slack, takes.
    """

    __slots__ = ("_bytes", "_count")

    def __init__(self, params: TopicParams, slack: float = 1.0) -> None:
        count_per_s = params.count_per_s * slack
        bytes_per_s = params.bytes_per_s * slack
        self._count = TokenBucket(count_per_s, count_per_s * BURST_S)
        self._bytes = TokenBucket(bytes_per_s, bytes_per_s * BURST_S)

    def take(self, size: int, now: float) -> bool:
        """Count a message of `size` bytes; False when it is too much."""
        if self._bytes.get_level(now) < size or not self._count.take(1, now):
            return False
        return self._bytes.take(size, now)

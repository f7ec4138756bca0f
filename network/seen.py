"""What has passed by already: hashes of gossip messages, bounded by count and age."""

from collections import OrderedDict


class SeenCache:
    """Remembers keys for `max_age_s` seconds, and at most `max_count` of them."""

    def __init__(self, max_count: int, max_age_s: float) -> None:
        self._max_count = max_count
        self._max_age_s = max_age_s
        self._seen_at: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen_at)

    def has(self, key: bytes, now: float) -> bool:
        """Tell whether `key` was added and not forgotten."""
        self._forget_old(now)
        return key in self._seen_at

    def add(self, key: bytes, now: float) -> None:
        """Remember `key`; the oldest gives way when there are too many."""
        self._forget_old(now)
        if key not in self._seen_at and len(self._seen_at) >= self._max_count:
            self._seen_at.popitem(last=False)
        self._seen_at[key] = now
        self._seen_at.move_to_end(key)

    def discard(self, key: bytes) -> None:
        """Forget `key`."""
        self._seen_at.pop(key, None)

    def _forget_old(self, now: float) -> None:
        while self._seen_at:
            key, at = next(iter(self._seen_at.items()))
            if now - at <= self._max_age_s:
                return
            del self._seen_at[key]

"""The buckets of the final state that were used last, bounded in bytes."""

from collections import OrderedDict

from primitives.types import ShardId

MAX_CACHE_BYTES = 32 * 1024 * 1024
"""About seventy thousand buckets of four accounts: all that a block can touch, several
times over, while a bucket beside it costs ten microseconds from LevelDB."""

ENTRY_BYTES = 250
"""What an entry takes beside its bytes, measured: dictionary, key, object heads."""

Place = tuple[ShardId, int]
"""Shard and number of a bucket."""


class BucketCache:
    """Encoded buckets by place; the one not used for longest goes first.

    Encoded, because a decoded bucket takes five times the memory and decoding four
    pairs half a microsecond.
    """

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._buckets: OrderedDict[Place, bytes] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes held, with what goes with them."""
        return self._bytes

    def get(self, place: Place) -> bytes | None:
        """Return a bucket if it is here."""
        data = self._buckets.get(place)
        if data is not None:
            self._buckets.move_to_end(place)
        return data

    def put(self, place: Place, data: bytes) -> None:
        """Keep a bucket, in the place of those not used for longest."""
        old = self._buckets.pop(place, None)
        if old is not None:
            self._bytes -= len(old) + ENTRY_BYTES
        self._buckets[place] = data
        self._bytes += len(data) + ENTRY_BYTES
        while self._bytes > self._max_bytes:
            _, dropped = self._buckets.popitem(last=False)
            self._bytes -= len(dropped) + ENTRY_BYTES

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self._bytes = 0

"""
The ordered key-value store that rules and queries see.

LevelDB implements it on disk (chain/storage/leveldb.py), `MemoryStore` in memory for
tests and simulations.  A batch is applied whole or not at all, also across a crash.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from typing import Protocol


class KeyValueReader(Protocol):
    """Byte keys in order, as they are or as they were."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""

    def iterate(
        self, prefix: bytes, *, start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs whose key starts with `prefix`, in key order.

        Args:
            prefix: What every key starts with.
            start: First key to yield, inclusive, in the direction of travel.
            reverse: From the greatest key down.
        """


class FrozenStore(KeyValueReader, Protocol):
    """A store as it was at one moment."""

    def close(self) -> None:
        """Let the store forget what it has replaced since."""


class KeyValueStore(KeyValueReader, Protocol):
    """Byte keys in order, values up to a few megabytes."""

    def write(self, changes: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        """Apply all `changes` in one atomic batch; None deletes.

        Args:
            changes: New value or None per key.
            sync: Return only when a power cut can no longer undo it.
        """

    def freeze(self) -> FrozenStore:
        """Return the store as it is now, whatever is written later."""

    def close(self) -> None:
        """Release the store; nothing may be called afterwards."""


class MemoryStore:
    """The same contract over a sorted list."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        return self._values.get(key)

    def write(
        self, changes: Mapping[bytes, bytes | None], *, sync: bool = False
    ) -> None:
        """Apply all `changes`; None deletes."""
        for key, value in changes.items():
            if value is None:
                if self._values.pop(key, None) is not None:
                    del self._keys[bisect_left(self._keys, key)]
            else:
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value

    def iterate(
        self, prefix: bytes, *, start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs under `prefix` in key order, from `start` on."""
        first = bisect_left(self._keys, prefix)
        keys = list(
            takewhile(
                lambda key: key.startswith(prefix), islice(self._keys, first, None)
            )
        )
        if reverse:
            keys.reverse()
        for key in keys:
            if start is not None and (key > start if reverse else key < start):
                continue
            yield key, self._values[key]

    def freeze(self) -> "MemoryStore":
        """Return a copy."""
        copy = MemoryStore()
        copy._values, copy._keys = dict(self._values), list(self._keys)
        return copy

    def close(self) -> None:
        """Nothing to release."""

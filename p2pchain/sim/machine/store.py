"""
The database of a simulated machine: batches are whole or not there at all.

The machine may go off before or after any batch.  What nobody asked to be synced may be
lost then, the newest batches first, as with a real log-structured store.
"""

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pchain.sim.errors import PowerCut
from primitives.kv import MemoryStore

if TYPE_CHECKING:
    from p2pchain.sim.machine.disk import Disk


class SimStore(MemoryStore):
    """A key-value store on a disk that can fail."""

    def __init__(self, disk: "Disk") -> None:
        super().__init__()
        self._disk = disk
        self._unsynced: list[dict[bytes, bytes | None]] = []
        """What stood there before each batch that is not synced, oldest first."""

    def write(
        self, changes: Mapping[bytes, bytes | None], *, sync: bool = False
    ) -> None:
        """Apply all changes or none.

        Raises:
            PowerCut: The fuse burned before or after it.
        """
        is_last = self._disk.before_batch()
        if sync:
            self._unsynced.clear()
        else:
            self._unsynced.append({key: self.get(key) for key in changes})
        super().write(changes, sync=sync)
        if is_last:
            raise PowerCut

    def tear(self, luck: random.Random) -> None:
        """The power is off: lose some of what was not synced."""
        if not self._unsynced:
            return
        kept = luck.randint(0, len(self._unsynced))
        for before in reversed(self._unsynced[kept:]):
            super().write(before)
        self._unsynced.clear()

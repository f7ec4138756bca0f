"""
A log file of a simulated machine: one append at a time, any of which may be torn.

An append goes in two steps, because the power may go between them: `begin_append` hands
the bytes over, `finish_append` has them on the disk.  A rewrite goes through a second
file and one rename, so a crash leaves the old or the new one.
"""

import random
from typing import TYPE_CHECKING

from p2pchain.sim.errors import PowerCut

if TYPE_CHECKING:
    from p2pchain.sim.machine.disk import Disk


class LogFile:
    """One file of records on a disk."""

    def __init__(self, disk: "Disk") -> None:
        self.data: bytes | None = None
        """Its bytes; None when there is no such file."""
        self.is_syncing = True
        """Whether appends are durable when they are said to be; see disk.py."""
        self._disk = disk
        self._flying = b""
        self._safe_length = 0

    def begin_append(self, data: bytes) -> None:
        """Hand an append to the disk; a crash before `finish_append` tears it."""
        self._flying = data

    def finish_append(self) -> None:
        """The append is durable.

        Raises:
            PowerCut: The fuse burned in it.
        """
        data, self._flying = self._flying, b""
        assert self.data is not None
        torn = self._disk.burn_in_append(data)
        if torn is not None:
            self.data += torn
            raise PowerCut
        if not self.is_syncing:
            self._safe_length = len(self.data)
        self.data += data

    def replace(self, data: bytes) -> None:
        """Put a whole new log in place of the old one, in one step.

        Raises:
            PowerCut: The fuse burned before or after that step.
        """
        share = self._disk.burn()
        if share is None or share >= 0.5:
            self.data = data
            self._safe_length = len(data)
        if share is not None:
            raise PowerCut

    def tear(self, luck: random.Random) -> None:
        """The power is off: settle what became of the append in flight."""
        flying, self._flying = self._flying, b""
        if self.data is None:
            return
        if not self.is_syncing and self._safe_length:
            self.data = self.data[: self._safe_length]
        if flying:
            length = luck.randint(0, len(flying))
            self.data += flying[:length]
            if length < len(flying):
                self.data += draw_junk(luck)


def draw_junk(luck: random.Random) -> bytes:
    """Return what a file system may leave behind the torn end of a file."""
    kind = luck.randrange(4)
    if kind == 0:
        return bytes(luck.randint(1, 64))
    if kind == 1:
        return luck.randbytes(luck.randint(1, 40))
    if kind == 2:
        return (80).to_bytes(4, "big") + b"torn"
    return b""

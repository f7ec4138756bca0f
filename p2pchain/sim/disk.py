"""
What survives a crash of a simulated machine, and what a crash does to it.

Theory of operation
-------------------
A disk holds two things: the log of own votes, as the bytes of a file, and the chain's
database, as an object whose batches are written whole or not at all.  The code above
never sees them change behind its back; the power goes in one of two ways:

    between two events   `tear` decides how much of the write in flight arrived
    in a write           a `Fuse` was put in: it counts writes down and then burns
                         before, after or inside one, at any byte

A torn append leaves a prefix, perhaps followed by what the file system put into the
rest: zeros, or somebody's old data.  A rewrite of the log goes through a second file
and one rename, so a crash leaves the old or the new one.

`is_syncing = False` makes a disk that lies: what it called durable since the last
quiet moment is lost in the crash.  Only a mutant turns it on.
"""

import random
from dataclasses import dataclass

from p2pchain.sim.errors import PowerCut


@dataclass(slots=True)
class Fuse:
    """Burns in one of the next writes."""

    writes: int
    """Writes that still succeed."""
    share: float
    """How much of the one after them arrives: 0 nothing, 1 everything."""
    junk: bytes = b""
    """What stands behind a torn append."""
    byte: int | None = None
    """Burn after that many more bytes of log, instead of counting writes."""


class Disk:
    """One machine's disk."""

    def __init__(self, luck: random.Random) -> None:
        self.log: bytes | None = None
        """The file of own votes; None when there is none."""
        self.database: object = None
        """What the chain keeps; made by the chain."""
        self.fuse: Fuse | None = None
        self.is_syncing = True
        self.writes = 0
        """Writes of any kind so far."""
        self.log_bytes = 0
        """Bytes ever appended to the log."""
        self._luck = luck
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
        assert self.log is not None
        self._burn_in_append(data)
        if not self.is_syncing:
            self._safe_length = len(self.log)
        self.log += data
        self.log_bytes += len(data)

    def replace_log(self, data: bytes) -> None:
        """Put a whole new log in place of the old one, in one step.

        Raises:
            PowerCut: The fuse burned before or after that step.
        """
        share = self._burn()
        if share is None or share >= 0.5:
            self.log = data
            self.log_bytes += len(data)
            self._safe_length = len(data)
        if share is not None:
            raise PowerCut

    def before_batch(self) -> bool:
        """Tell whether a batch of the database is to be the last one.

        Raises:
            PowerCut: The fuse burned before it.
        """
        share = self._burn()
        if share is not None and share < 0.5:
            raise PowerCut
        return share is not None

    def tear(self) -> None:
        """The power is off: settle what became of the append in flight."""
        self.fuse = None
        flying, self._flying = self._flying, b""
        if self.log is None:
            return
        if not self.is_syncing and self._safe_length:
            self.log = self.log[: self._safe_length]
        if flying:
            length = self._luck.randint(0, len(flying))
            self.log += flying[:length]
            if length < len(flying):
                self.log += draw_junk(self._luck)

    def _burn_in_append(self, data: bytes) -> None:
        fuse = self.fuse
        if fuse is not None and fuse.byte is not None:
            if len(data) <= fuse.byte:
                fuse.byte -= len(data)
                return
            length, junk = fuse.byte, fuse.junk
        else:
            share = self._burn()
            if share is None:
                return
            assert fuse is not None
            length, junk = int(share * len(data)), fuse.junk
        self.fuse = None
        assert self.log is not None
        self.log += data[:length] + (junk if length < len(data) else b"")
        raise PowerCut

    def _burn(self) -> float | None:
        """Count a write; return how much of it arrives if the power goes in it."""
        self.writes += 1
        fuse = self.fuse
        if fuse is None or fuse.byte is not None:
            return None
        if fuse.writes > 0:
            fuse.writes -= 1
            return None
        self.fuse = None
        return fuse.share


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

"""
What survives a crash of a simulated machine, and what a crash does to it.

Theory of operation
-------------------
A disk holds two logs of what its owner signed, of votes and of chunks, as the bytes of
files, and a database, whose batches are written whole or not at all.  The code above
never sees them change behind its back; the power goes in one of two ways:

    between two events   `tear` decides how much of the write in flight arrived
    in a write           a `Fuse` was put in: it counts writes down and then burns
                         before, after or inside one, at any byte

A torn append leaves a prefix, perhaps followed by what the file system put into the
rest: zeros, or somebody's old data.  Batches of the database that nobody asked to be
synced may be lost, the newest ones first.

A log with `is_syncing = False` is on a disk that lies: what it called durable last is
lost in the crash.  Only a mutant turns it on.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from p2pchain.sim.errors import PowerCut
from p2pchain.sim.machine.log_file import LogFile


class Database(Protocol):
    """What the chain keeps."""

    def tear(self, luck: random.Random) -> None:
        """The power is off: lose what was not synced, or some of it."""


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
        self.votes = LogFile(self)
        """What consensus signed."""
        self.chunks = LogFile(self)
        """What was signed about chunks."""
        self.database: Database | None = None
        """What the chain keeps; made by the chain."""
        self.fuse: Fuse | None = None
        self._luck = luck

    def before_batch(self) -> bool:
        """Tell whether a batch of the database is to be the last one.

        Raises:
            PowerCut: The fuse burned before it.
        """
        share = self.burn()
        if share is not None and share < 0.5:
            raise PowerCut
        return share is not None

    def tear(self) -> None:
        """The power is off: settle what became of everything in flight."""
        self.fuse = None
        for log in (self.votes, self.chunks):
            log.tear(self._luck)
        if self.database is not None:
            self.database.tear(self._luck)

    def burn_in_append(self, data: bytes) -> bytes | None:
        """Count an append; return what arrives of it if the power goes in it."""
        fuse = self.fuse
        if fuse is not None and fuse.byte is not None:
            if len(data) <= fuse.byte:
                fuse.byte -= len(data)
                return None
            length, junk = fuse.byte, fuse.junk
        else:
            share = self.burn()
            if share is None:
                return None
            assert fuse is not None
            length, junk = int(share * len(data)), fuse.junk
        self.fuse = None
        return data[:length] + (junk if length < len(data) else b"")

    def burn(self) -> float | None:
        """Count a write; return how much of it arrives if the power goes in it."""
        fuse = self.fuse
        if fuse is None or fuse.byte is not None:
            return None
        if fuse.writes > 0:
            fuse.writes -= 1
            return None
        self.fuse = None
        return fuse.share

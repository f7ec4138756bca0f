"""
A log of promises on disk: one file per key, one process at a time.

`create_wal` makes the file when a new key is made.  A validator that finds none, or a
damaged one, has lost its memory of what it signed: it must not start afresh, and signs
nothing until consensus.participant says that a new log may begin.
"""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from consensus.errors import CorruptWal, LostWal
from consensus.records import WalRecord
from consensus.wal import encode_header, encode_records, scan_wal
from primitives.codec import Record
from primitives.errors import LocalError

COMPACT_BYTES = 4 * 1024 * 1024
"""A log this long is rewritten with what still binds us; about an hour of votes."""


class WalLocked(LocalError):
    """Another process votes with this key."""


def create_wal(path: Path, public_key: bytes, chain_id: bytes) -> None:
    """Write the header of a new log.

    Raises:
        FileExistsError: There is one already; it must never be replaced.
    """
    with path.open("xb") as file:
        file.write(encode_header(public_key, chain_id))
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


class WalFile:
    """An open, locked log; `append` returns when the records are on disk.

    A log that is lost, because there is no file or a damaged one, has no records and
    takes none; the lock is held all the same.  `begin` makes a new one in its place.
    """

    def __init__(
        self, path: Path, public_key: bytes, chain_id: bytes, kind: Any = WalRecord
    ) -> None:
        """Lock, read and mend the log.

        Args:
            path: Of the file.
            public_key: Whose log it is.
            chain_id: And on which chain.
            kind: What its records are: one class or a union of them.

        Raises:
            WalLocked: Another process has it open.
            WrongWal: It belongs to another key or chain.
        """
        self._path = path
        self._header = encode_header(public_key, chain_id)
        self._file: BinaryIO | None = None
        self._size = 0
        self.records: tuple[Any, ...] = ()
        """What the log held when it was opened."""
        self.flaw = ""
        """Why the log counts as lost; empty for a whole one."""
        self._lock = _lock(path.with_name(path.name + ".lock"))
        try:
            data = _read(path)
            self.records, self._size = scan_wal(data, public_key, chain_id, kind)
            self._file = path.open("r+b")
            self._file.truncate(self._size)
            self._file.seek(self._size)
        except (LostWal, CorruptWal) as error:
            self.flaw = str(error)
        except BaseException:
            self._lock.close()
            raise

    @property
    def is_lost(self) -> bool:
        """Whether there is no log to vote by."""
        return self._file is None

    @property
    def is_long(self) -> bool:
        """Whether it is time to rewrite the log."""
        return self._size > COMPACT_BYTES

    def append(self, records: Sequence[Record]) -> None:
        """Write and sync; blocks for as long as the disk takes."""
        assert self._file is not None
        data = encode_records(records)
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._size += len(data)

    def begin(self, records: Sequence[Record]) -> None:
        """Make a new log in place of a lost one; a damaged one is put aside."""
        assert self._file is None
        if self._path.exists():
            self._path.replace(self._path.with_name(self._path.name + ".damaged"))
        self.rewrite(records)

    def rewrite(self, records: Sequence[Record]) -> None:
        """Replace the log by a shorter one, in one step that a crash cannot halve."""
        fresh = self._path.with_name(self._path.name + ".new")
        data = self._header + encode_records(records)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        _sync_folder(self._path.parent)
        if self._file is not None:
            self._file.close()
        self._file = self._path.open("r+b")
        self._size = self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file and let others lock it."""
        if self._file is not None:
            self._file.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise LostWal(
            f"{path} is missing: this key may have voted and forgotten"
        ) from error


def _lock(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise WalLocked(f"another process holds {path}") from error
    return file


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

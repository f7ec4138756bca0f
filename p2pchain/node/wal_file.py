"""
The consensus log on disk: one file per key, one process at a time.

`create_wal` makes the file when a validator is set up.  A validator that finds none
has lost it, with all memory of what it signed, and must not sign: `open_wal` raises
instead of starting afresh.
"""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Self

from consensus.errors import LostWal
from consensus.records import WalRecord
from consensus.wal import encode_header, encode_records, scan_wal
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
    """An open, locked log; `append` returns when the records are on disk."""

    def __init__(self, path: Path, public_key: bytes, chain_id: bytes) -> None:
        """Lock, read and mend the log.

        Raises:
            LostWal: There is no file.
            WalLocked: Another process has it open.
            CorruptWal: It is damaged before its end.
            WrongWal: It belongs to another key or chain.
        """
        self._path = path
        self._header = encode_header(public_key, chain_id)
        self._lock = _lock(path.with_name(path.name + ".lock"))
        try:
            if not path.exists():
                raise LostWal(
                    f"{path} is missing: this key may have voted and forgotten, "
                    "so it does not vote"
                )
            data = path.read_bytes()
            self.records, length = scan_wal(data, public_key, chain_id)
            self._file = path.open("r+b")
            self._file.truncate(length)
            self._file.seek(length)
        except BaseException:
            self._lock.close()
            raise
        self._size = length

    @property
    def is_long(self) -> bool:
        """Whether it is time to rewrite the log."""
        return self._size > COMPACT_BYTES

    def append(self, records: Sequence[WalRecord]) -> None:
        """Write and sync; blocks for as long as the disk takes."""
        data = encode_records(records)
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._size += len(data)

    def rewrite(self, records: Sequence[WalRecord]) -> None:
        """Replace the log by a shorter one, in one step that a crash cannot halve."""
        fresh = self._path.with_name(self._path.name + ".new")
        data = self._header + encode_records(records)
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        _sync_folder(self._path.parent)
        self._file.close()
        self._file = self._path.open("r+b")
        self._size = self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file and let others lock it."""
        self._file.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


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

"""
The key-value store on disk: LevelDB through plyvel, in this file only.

LevelDB keeps a checksum of every block of a file and every record of its log, and looks
at them only when asked to; here it is asked to, always.  So a flipped bit is an error
and never a wrong value.

A write that fails, for want of space as a rule, may leave half a record at the end of
the log, after which LevelDB would go on writing.  What came later would be lost with it
when the log is read again, so after one failure this store takes no more writes.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import plyvel

from chain.errors import FailedWrite, StoreError

WRITE_BUFFER_BYTES = 8 * 1024 * 1024
"""Several blocks' batches before LevelDB sorts them into files."""


class LevelStore:
    """LevelDB behind the `KeyValueStore` protocol.

    One process opens a database at a time: LevelDB's own lock sees to that.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database in the folder `path`.

        Raises:
            StoreError: Locked by another process, unreadable or damaged.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._db = plyvel.DB(
                str(path),
                create_if_missing=True,
                write_buffer_size=WRITE_BUFFER_BYTES,
                # Keys, hashes and signatures do not compress; trying to doubled the
                # cost of an update.
                compression=None,
                paranoid_checks=True,
            )
        except (plyvel.Error, OSError) as error:
            raise StoreError(f"cannot open the database in {path}: {error}") from error
        self._failure: str | None = None

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except plyvel.Error as error:
            raise StoreError(f"cannot read the database: {error}") from error
        return value

    def write(self, changes: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        """Apply all `changes` in one atomic batch; None deletes.

        Raises:
            FailedWrite: The disk did not take it, or an earlier one.
        """
        if self._failure is not None:
            raise FailedWrite(f"no write after one that failed: {self._failure}")
        try:
            if len(changes) == 1:
                # Most writes of a session are: without a batch they cost half.
                ((key, value),) = changes.items()
                if value is not None:
                    self._db.put(key, value, sync=sync)
                    return
            with self._db.write_batch(transaction=True, sync=sync) as batch:
                for key, value in changes.items():
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
        except (plyvel.Error, OSError) as error:
            self._failure = str(error)
            raise FailedWrite(f"cannot write the database: {error}") from error

    def iterate(
        self, prefix: bytes, *, start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs under `prefix` in key order, from `start` on."""
        return _iterate(self._db, prefix, start, reverse)

    def freeze(self) -> "LevelSnapshot":
        """Return the database as it is now: LevelDB keeps what is replaced later."""
        return LevelSnapshot(self._db)

    def close(self) -> None:
        """Flush and release the database."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def rebuild_level_store(path: Path) -> None:
    """Have LevelDB save what it can of a database that does not open.

    Raises:
        StoreError: It cannot.
    """
    try:
        plyvel.repair_db(str(path))
    except (plyvel.Error, OSError) as error:
        raise StoreError(f"cannot rebuild the database in {path}: {error}") from error


class LevelSnapshot:
    """A LevelDB as it was at one moment; good until the database is closed."""

    def __init__(self, db: Any) -> None:
        """Use `LevelStore.freeze`."""
        self._snapshot = db.snapshot()

    def get(self, key: bytes) -> bytes | None:
        """Return the value that was under `key`, or None."""
        try:
            value: bytes | None = self._snapshot.get(key, verify_checksums=True)
        except plyvel.Error as error:
            raise StoreError(f"cannot read the database: {error}") from error
        return value

    def iterate(
        self, prefix: bytes, *, start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs that were under `prefix` in key order, from `start` on."""
        return _iterate(self._snapshot, prefix, start, reverse)

    def close(self) -> None:
        """Let LevelDB drop what was replaced since."""
        self._snapshot.close()


def _iterate(
    source: Any, prefix: bytes, start: bytes | None, reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    lower, upper = prefix, _compute_upper(prefix)
    if start is not None:
        if reverse and (upper is None or start < upper):
            # Inclusive, as the bound itself is not.
            upper = start + b"\0"
        elif not reverse:
            lower = max(lower, start)
    if upper is not None and upper <= lower:
        return
    # Backwards, plyvel loses a first key that equals its lower bound, so we look
    # at the bound ourselves.
    bound = None if reverse else lower
    last: bytes | None = None
    try:
        with source.iterator(
            start=bound, stop=upper, reverse=reverse, verify_checksums=True
        ) as pairs:
            for last, value in pairs:
                if last < lower:
                    return
                yield last, value
        _check_end(source, last, bound, upper, reverse)
    except plyvel.Error as error:
        raise StoreError(f"cannot read the database: {error}") from error


def _check_end(
    source: Any,
    last: bytes | None,
    lower: bytes | None,
    upper: bytes | None,
    reverse: bool,
) -> None:
    """Take the step again after which an iteration ended.

    LevelDB skips what it cannot read and says so in a status, at which plyvel does not
    look when nothing follows: pairs would be missing without a word.

    Raises:
        plyvel.Error: The iteration did not end, it was cut off.
    """
    with closing(source.raw_iterator(verify_checksums=True)) as cursor:
        if last is not None:
            cursor.seek(last)
            cursor.prev() if reverse else cursor.next()
        elif not reverse:
            cursor.seek(lower)
        elif upper is None:
            cursor.seek_to_last()
        else:
            cursor.seek(upper)
            cursor.prev() if cursor.valid() else cursor.seek_to_last()


def _compute_upper(prefix: bytes) -> bytes | None:
    """Return the first key after all that start with `prefix`; None: there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes([stripped[-1] + 1])

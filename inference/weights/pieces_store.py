"""
A cache of parts on disk, each in a file named by its hash.

    FOLDER/ab/ab12...    one part; two models that share it share the file
    FOLDER/new-*         half written; removed at the next start

Theory of operation
-------------------
A file's name says what must be in it, so nothing has to be synced or written in order:
what a crash or a disk has torn does not hash, is thrown away with its name in the log,
and is fetched again.  What is not pinned is evicted, least recently used first, when
room is needed; a pin is a named set of parts, such as those of hosted layers.  The time
of a file says when its part was used last, so the order outlives the process.

Besides its own limit the cache leaves the disk a reserve: a chain whose disk is full
cannot vote.

Calls block on the disk, and may come from several threads at once.  A worker reads
files of pinned parts by itself, by `get_part_path`.
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from blake3 import blake3

from inference.errors import CacheFull, DiskFull, WrongPart
from inference.weights.pieces import Part

DEFAULT_LIMIT_BYTES = 64 * 1024**3
"""A model of thirty billion parameters in bfloat16."""
RESERVE_BYTES = 1024**3
"""Left free on the disk: some weeks of blocks of a quiet chain, or a snapshot."""
_NAME_CHARACTERS = 64

log = logging.getLogger(__name__)


def get_part_path(folder: Path, digest: bytes) -> Path:
    """Return where a cache in `folder` keeps a part."""
    name = digest.hex()
    return folder / name[:2] / name


class PieceStore:
    """The cache of one home.

    Args:
        folder: Made if need be.
        limit_bytes: Of all parts together.
        reserve_bytes: Left free on the disk.
        get_free_bytes: How much of the disk is free.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        get_free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        """Look what is there.

        Raises:
            DiskFull: The folder cannot be made.
        """
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._get_free_bytes = get_free_bytes or _measure_free_bytes
        self._lock = threading.RLock()
        self._sizes: dict[bytes, int] = {}
        """Of every part that is here, the least recently used first."""
        self._pins: dict[str, frozenset[bytes]] = {}
        self._counter = 0
        self.used_bytes = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._scan()
        except OSError as error:
            raise DiskFull(f"{folder}: {error.strerror}") from error

    def __contains__(self, digest: bytes) -> bool:
        with self._lock:
            return digest in self._sizes

    def pin(self, name: str, parts: Iterable[Part]) -> None:
        """Keep these parts from eviction until the pin of this name changes.

        They need not be here yet.

        Raises:
            CacheFull: With all other pins they are more than the cache may hold.
        """
        wanted = {part.digest: part.size for part in parts}
        with self._lock:
            others = [pin for key, pin in self._pins.items() if key != name]
            held = frozenset[bytes]().union(*others) - wanted.keys()
            total = sum(wanted.values()) + sum(self._sizes.get(d, 0) for d in held)
            if total > self._limit_bytes:
                raise CacheFull(
                    f"{total / 1e6:.1f} MB of weights are needed, and the cache may "
                    f"hold {self._limit_bytes / 1e6:.1f} MB: raise weights_cache_mb"
                )
            self._pins[name] = frozenset(wanted)

    def put(self, digest: bytes, data: bytes) -> None:
        """Keep a part; nothing happens where it is here already.

        Raises:
            WrongPart: The bytes are others than the name says.
            CacheFull: Everything else is pinned.
            DiskFull: The disk does not take it.
        """
        if blake3(data).digest() != digest:
            raise WrongPart(f"bytes that are not part {digest.hex()[:16]}")
        with self._lock:
            if digest in self._sizes:
                return
            self._make_room(len(data))
            # Taken before it is written, so that threads share what is left.
            self.used_bytes += len(data)
            self._counter += 1
            temporary = self.folder / f"new-{os.getpid()}-{self._counter}"
        try:
            self._write(digest, data, temporary)
        except OSError as error:
            with self._lock:
                self.used_bytes -= len(data)
            temporary.unlink(missing_ok=True)
            raise DiskFull(f"{self.folder}: {error.strerror}") from error
        with self._lock:
            if digest in self._sizes:
                self.used_bytes -= len(data)
            self._sizes[digest] = len(data)

    def _write(self, digest: bytes, data: bytes, temporary: Path) -> None:
        path = get_part_path(self.folder, digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary.write_bytes(data)
        temporary.rename(path)

    def get(self, digest: bytes) -> bytes | None:
        """Return a part, compared with its name; None where it is not here.

        One that is damaged is removed, and the log says which.
        """
        with self._lock:
            if digest not in self._sizes:
                return None
            self._touch(digest)
        path = get_part_path(self.folder, digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            log.warning("part %s cannot be read: %s", digest.hex(), error.strerror)
            self.remove(digest)
            return None
        if blake3(data).digest() != digest:
            log.warning("part %s is damaged on disk: thrown away", digest.hex())
            self.remove(digest)
            return None
        return data

    def remove(self, digest: bytes) -> None:
        """Throw a part away."""
        self._forget(digest)
        get_part_path(self.folder, digest).unlink(missing_ok=True)

    def _scan(self) -> None:
        found = []
        for entry in list(self.folder.iterdir()):
            if entry.name.startswith("new-"):
                entry.unlink()
            elif entry.is_dir():
                found += [_describe(path) for path in entry.iterdir()]
        for _, name, size in sorted(found):
            if len(name) == _NAME_CHARACTERS:
                self._sizes[bytes.fromhex(name)] = size
        self.used_bytes = sum(self._sizes.values())

    def _make_room(self, size: int) -> None:
        """Evict until there is room for `size` bytes more; the lock is held."""
        pinned = frozenset[bytes]().union(*self._pins.values())
        unpinned = (digest for digest in list(self._sizes) if digest not in pinned)
        while self.used_bytes + size > self._limit_bytes:
            if (digest := next(unpinned, None)) is None:
                raise CacheFull(
                    f"the cache of weights is full: {self.used_bytes} of "
                    f"{self._limit_bytes} bytes, all of them in use"
                )
            self.remove(digest)
        while self._get_free_bytes(self.folder) - size < self._reserve_bytes:
            if (digest := next(unpinned, None)) is None:
                raise DiskFull(
                    f"less than {self._reserve_bytes / 1e6:.0f} MB are free on the "
                    f"disk of {self.folder}"
                )
            self.remove(digest)

    def _touch(self, digest: bytes) -> None:
        size = self._sizes.pop(digest)
        self._sizes[digest] = size
        try:
            os.utime(get_part_path(self.folder, digest))
        except OSError:
            # Gone, which who reads it will find out.
            return

    def _forget(self, digest: bytes) -> None:
        with self._lock:
            self.used_bytes -= self._sizes.pop(digest, 0)


def _describe(path: Path) -> tuple[int, str, int]:
    status = path.stat()
    return status.st_mtime_ns, path.name, status.st_size


def _measure_free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free

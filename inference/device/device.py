"""
What this machine can do: memory that is free, and how fast it is read.

A token of one session reads every weight of a stage once, so bytes per second of
memory divided by the bytes of the weights bounds the tokens per second.  No torch here.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")

SHARE = 0.75
"""Of the free memory that a stage may take: the rest is for files and for others."""
PROBE_BYTES = 64 * 1024 * 1024
"""More than the caches of processors hold."""
PROBES = 5


@dataclass(frozen=True, slots=True)
class Device:
    """A machine as placement and predictions see it."""

    free_bytes: int
    """Memory that can be taken now."""
    bytes_per_s: float
    """Of memory, read in order by one thread."""

    @property
    def room_bytes(self) -> int:
        """What a stage may take of it, all in all."""
        return int(self.free_bytes * SHARE)


def measure_device() -> Device:
    """Return what this machine can do now; takes a tenth of a second."""
    return Device(measure_free_bytes(), measure_bytes_per_s())


def measure_free_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Return the memory that can be taken: the machine's, or what a limit leaves."""
    free = [_read_available(meminfo)]
    limit = _read_number(cgroup / "memory.max")
    used = _read_number(cgroup / "memory.current")
    if limit is not None and used is not None:
        free.append(max(0, limit - used))
    return min(free)


def measure_bytes_per_s() -> float:
    """Return the best of some passes over a large array."""
    array = np.ones(PROBE_BYTES // 4, dtype=np.float32)
    best_s = float("inf")
    for _ in range(PROBES):
        started = time.perf_counter()
        array.sum()
        best_s = min(best_s, time.perf_counter() - started)
    return PROBE_BYTES / best_s


def _read_available(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None

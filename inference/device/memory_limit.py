"""
How far a worker may grow: memory that runs out shall be one session's error.

Without a limit the system promises memory that it does not have, and when pages are
touched its killer ends the whole worker and all its sessions.  With one, the allocation
that is too large fails where it is made: the step answers NoMemory, its session goes
elsewhere, and everybody else stays (inference/engine).  The killer remains for what no
limit foresees.

The limit is on private writable memory (RLIMIT_DATA), which is what allocations make.
Address space as a whole would count mapped files, and what libraries only reserve.  It
is set once everything is loaded, so loading never fails by it.
"""

import resource
from dataclasses import dataclass
from pathlib import Path

from inference.device.memory import WORKER_BYTES

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class DataUse:
    """Private writable memory of a process, bytes."""

    promised: int
    """Whether touched or not."""
    touched: int

    @property
    def untouched(self) -> int:
        """What it may still touch without asking: caches that are empty, mostly."""
        return max(0, self.promised - self.touched)


def compute_limit(use: DataUse, free_bytes: int, growth_bytes: int | None) -> int:
    """Return the most private memory that a process may have.

    Args:
        use: What it has.
        free_bytes: Of the machine, or of the group that the process is in.
        growth_bytes: What the owner gives it beyond that; None for what is free.

    Returns:
        Without a word of the owner, what can be touched is what is free, but a pass
        always has what the memory formula counts for it.
    """
    if growth_bytes is not None:
        return use.promised + growth_bytes
    return use.promised + max(WORKER_BYTES, free_bytes - use.untouched)


def read_use(status: Path = STATUS) -> DataUse | None:
    """Return what this process has; None where the system does not say."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    sizes = {}
    for line in lines:
        name, _, rest = line.partition(":")
        if name in ("VmData", "RssAnon"):
            sizes[name] = int(rest.split()[0]) * 1024
    if len(sizes) < 2:
        return None
    return DataUse(sizes["VmData"], sizes["RssAnon"])


def limit_growth(free_bytes: int, growth_bytes: int | None = None) -> int | None:
    """Limit this process; return the limit in bytes, None where there is none."""
    use = read_use()
    if use is None:
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = compute_limit(use, free_bytes, growth_bytes)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    # Only the soft limit: raising it again needs no privilege, should we ever want to.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return limit

"""What processes have used, as the kernel counts it."""

import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one process, in bytes."""

    rss: int
    """All resident pages, those it shares as well."""
    pss: int
    """Shared pages divided by the number of processes that share them."""
    uss: int
    """Pages that nobody shares: what would be free if it ended."""


def read_cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, user and system.

    Raises:
        OSError: It is gone.
    """
    # The name in parentheses may hold anything; the numbers start behind it.
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def read_memory(pid: int) -> Memory:
    """Return a process's resident memory.

    Raises:
        OSError: It is gone, or of another user.
    """
    return parse_rollup((PROC / str(pid) / "smaps_rollup").read_text())


def parse_rollup(text: str) -> Memory:
    """Return what the text of a smaps_rollup says."""
    sizes: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return Memory(
        rss=sizes["Rss"],
        pss=sizes["Pss"],
        uss=sizes["Private_Clean"] + sizes["Private_Dirty"],
    )


def list_children(pid: int) -> list[int]:
    """Return the processes that any thread of a process has started.

    Raises:
        OSError: It is gone.
    """
    tasks = (PROC / str(pid) / "task").iterdir()
    return [
        int(child)
        for task in tasks
        for child in (task / "children").read_text().split()
    ]

"""Figures, and how they are summed up and shown."""

import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from statistics import median
from typing import Any

INSTRUCTIONS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
)  # fmt: skip
"""Those on which the speed of products depends."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure is hoped to be."""

    bound: float
    is_floor: bool = True
    """At least the bound; else at most."""

    def is_met(self, value: float) -> bool:
        """Whether a value is on the right side of the bound."""
        return value >= self.bound if self.is_floor else value <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing: a number, or a yes or no."""

    name: str
    value: float | bool
    unit: str = ""
    note: str = ""
    """Conditions of this figure alone: how many samples, what was compared."""
    goal: Goal | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of one section and the conditions that they were measured under."""

    name: str
    title: str
    seconds: float
    load_before: float
    """Processes that wanted a core in the minute before; ours are among them after."""
    load_after: float
    figures: tuple[Figure, ...] = field(default=())
    error: str = ""
    """Why there are no figures; empty when there are."""


def compute_quantile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least `share` of the samples do not exceed.

    Args:
        samples: At least one.
        share: Above 0, at most 1.
    """
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarise(
    name: str,
    samples: Sequence[float],
    unit: str,
    note: str = "",
    goal: Goal | None = None,
) -> Figure:
    """Return the median of samples as a figure, with the 90th percentile beside it."""
    spread = f"p90 {format_number(compute_quantile(samples, 0.9))}, n {len(samples)}"
    note = f"{spread}; {note}" if note else spread
    return Figure(name, median(samples), unit, note, goal)


def describe(
    name: str,
    samples: Sequence[float],
    unit: str,
    factor: float,
    goal: Goal | None = None,
) -> Figure:
    """Return the median of samples times `factor` as a figure, with the p95 beside."""
    p95 = format_number(compute_quantile(samples, 0.95) * factor)
    note = f"p95 {p95}, n {len(samples)}"
    return Figure(name, median(samples) * factor, unit, note, goal)


def get_load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def collect_conditions() -> dict[str, Any]:
    """Return what figures depend on; nothing in it names this machine."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _read_cpuinfo("model name") or platform.machine(),
        "instructions": " ".join(
            flag for flag in INSTRUCTIONS if flag in _read_cpuinfo("flags").split()
        ),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
        "trio": metadata.version("trio"),
    }


def _read_cpuinfo(name: str) -> str:
    """Return what the system says of the first processor; empty where nothing."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith(name):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


def format_number(value: float) -> str:
    """Return a number with three significant digits, or all of a large one's."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 6)}f}"


def format_value(figure: Figure) -> str:
    """Return a figure's value with its unit."""
    if isinstance(figure.value, bool):
        return "yes" if figure.value else "NO"
    return f"{format_number(figure.value)} {figure.unit}".rstrip()


def format_goal(figure: Figure) -> str:
    """Return what a figure was hoped to be, and that it is not; empty without goal."""
    goal = figure.goal
    if goal is None:
        return ""
    word = "at least" if goal.is_floor else "at most"
    text = f"{word} {format_number(goal.bound)}"
    return text if goal.is_met(figure.value) else f"{text}: missed"


def format_section(section: Section) -> str:
    """Return a section as lines of text."""
    head = (
        f"{section.title}  ({section.name}; {section.seconds:.0f} s; "
        f"load {section.load_before:.1f} -> {section.load_after:.1f})"
    )
    if section.error:
        return f"{head}\n  failed: {section.error}"
    width = max((len(figure.name) for figure in section.figures), default=0)
    values = [format_value(figure) for figure in section.figures]
    column = max(map(len, values), default=0)
    lines = [
        f"  {figure.name:{width}}  {value:>{column}}  {_format_notes(figure)}".rstrip()
        for figure, value in zip(section.figures, values, strict=True)
    ]
    return "\n".join([head, *lines])


def _format_notes(figure: Figure) -> str:
    goal = format_goal(figure)
    return "; ".join(note for note in (figure.note, goal and f"goal {goal}") if note)


def build_document(
    conditions: dict[str, Any], sections: Sequence[Section]
) -> dict[str, Any]:
    """Return everything as plain data for --json."""
    return {
        "arguments": sys.argv[1:],
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "conditions": conditions,
        "sections": [asdict(section) for section in sections],
    }

"""
Where a block's time goes from the leader's turn until it is final, and what a silent
leader costs: four validators in four processes (p2pchain.bench.voter).

    leader's turn        all others                         a quorum
      build -> log -> proposal spreads -> judge -> log -> Notarize votes spread ->
      save the block -> log -> Finalize votes spread -> finalize in LevelDB

A step is over when a quorum is through it, for that is what the next one waits for:
three of four, so the slowest node decides nothing.
"""

import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from p2pchain.bench.lab import BenchError, Lab, LineProcess
from p2pchain.bench.report import Figure, compute_quantile, format_number, summarise
from p2pchain.bench.validators import get_past_ms
from p2pchain.bench.voter import Note, Settings

COUNT = 4
QUORUM = 3
TRANSFERS = 24
"""One at a time; with waiting about half a minute."""
WARM_HEIGHT = 5
"""Connections are there and code is loaded."""
SILENT_S = 75.0
"""About eleven turns of one among four."""
INTERVAL_S = 1.0
MS = 1000

Place = tuple[int, int]
"""(epoch, view)"""


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a block, over when a quorum of nodes has noted its end."""

    name: str
    what: str
    """The note that ends it."""
    is_begin: bool = False
    """Whether that note's beginning counts."""


STAGES = (
    Stage("build", "built"),
    Stage("leader's log", "sent propose"),
    Stage("proposal spreads", "heard propose"),
    Stage("judge and execute", "judged"),
    Stage("log before Notarize", "sent notarize"),
    Stage("Notarize votes spread, certificate", "saved", is_begin=True),
    Stage("save the block", "saved"),
    Stage("log before Finalize", "sent finalize"),
    Stage("Finalize votes spread, certificate", "finalized", is_begin=True),
    Stage("make it final", "finalized"),
)


class Voters:
    """Validators in processes of their own."""

    def __init__(self, folder: Path) -> None:
        time_ms = get_past_ms(60)
        self._processes = []
        self.pids = []
        endpoints = []
        folder.mkdir()
        for index in range(COUNT):
            process = LineProcess("p2pchain.bench.voter")
            self._processes.append(process)
            own = Settings(index, COUNT, time_ms, str(folder / str(index)))
            said = process.ask(asdict(own))
            endpoints.append(said["endpoint"])
            self.pids.append(said["pid"])
        for index in range(COUNT):
            self.ask(index, "connect", peers=endpoints[:index])
        for index in range(COUNT):
            self.ask(index, "wait", height=WARM_HEIGHT)

    def ask(self, index: int, do: str, **fields: Any) -> dict[str, Any]:
        """Have a validator do something."""
        return self._processes[index].ask({"do": do, **fields})

    def read_notes(self, index: int) -> tuple[list[Note], float]:
        """Return a validator's notes and the CPU seconds that it has used."""
        said = self.ask(index, "notes")
        return [Note(**note) for note in said["notes"]], said["cpu_s"]

    def close(self) -> None:
        """Stop all."""
        for process in self._processes:
            process.__exit__()


@contextmanager
def open_voters(folder: Path) -> Iterator[Voters]:
    """Run validators inside the block."""
    voters = Voters(folder)
    try:
        yield voters
    finally:
        voters.close()


def run_protocol(lab: Lab) -> list[Figure]:
    """Split the way of single transfers to finality."""
    luck = random.Random(11)
    sent = []
    with open_voters(lab.folder / "voters") as voters:
        for number in range(TRANSFERS):
            lab.report(f"transfer {number + 1} of {TRANSFERS}")
            time.sleep(luck.random())
            sent.append(voters.ask(number % COUNT, "transfer"))
        everything = [voters.read_notes(index) for index in range(COUNT)]
    notes = [own for own, _ in everything]
    views = split_views(notes)
    if not views:
        raise BenchError("no view is complete")
    starts = {height: start for height, start, _ in views.values()}
    both = [each for each in sent if each["height"] in starts]
    total = [each["end_s"] - each["begin_s"] for each in sent]
    waits = [starts[each["height"]] - each["begin_s"] for each in both]
    ways = [each["end_s"] - starts[each["height"]] for each in both]
    whole = [steps for _, _, steps in views.values()]
    heights = max(height for height, _, _ in views.values())
    cpu = [cpu_s / heights * MS for _, cpu_s in everything]
    return [
        _describe("submission to finality", total, "s", 1),
        _describe("of that, until the next leader's turn", waits, "s", 1),
        _describe("of that, from there on: the protocol", ways, "s", 1),
        _describe("a leader's turn until final at a quorum", [*map(sum, whole)],
                  "ms", MS),
        *(
            summarise(f"  {stage.name}", [steps[at] * MS for steps in whole], "ms")
            for at, stage in enumerate(STAGES)
        ),
        Figure("CPU of a node and block, everything", median(cpu), "ms",
               "with start and network; no inference, no web interface"),
    ]  # fmt: skip


def run_silent_leader(lab: Lab) -> list[Figure]:
    """Stop one of four validators and see how long its turns take the others."""
    with open_voters(lab.folder / "silent-voters") as voters:
        lab.report(f"one of {COUNT} is silent for {SILENT_S:.0f} s")
        os.kill(voters.pids[0], signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            time.sleep(SILENT_S)
            notes, _ = voters.read_notes(1)
        finally:
            os.kill(voters.pids[0], signal.SIGCONT)
    turns = find_turns([note for note in notes if note.begin_s > stopped])
    figures = []
    for name, lots in (
        ("no view is nullified", turns[0]),
        ("a silent leader's turn is waited out", turns[1]),
        ("a silent leader's turn is skipped (R8)", turns[2]),
    ):
        if lots:
            figures.append(_describe(f"block to block, {name}", lots, "s", 1))
    return figures


def split_views(
    notes: Sequence[list[Note]],
) -> dict[Place, tuple[int, float, list[float]]]:
    """Return height, start and duration of each stage, by view that went well.

    Args:
        notes: Of every validator.
    """
    by_view: dict[Place, dict[str, list[Note]]] = defaultdict(lambda: defaultdict(list))
    for own in notes:
        for note in own:
            by_view[note.epoch, note.view][note.what].append(note)
    views = {}
    for place, lots in by_view.items():
        if len(lots["built"]) != 1 or len(lots["finalized"]) < QUORUM:
            continue
        (built,) = lots["built"]
        ends = _find_ends(lots)
        if ends is not None:
            steps = [b - a for a, b in zip([built.begin_s, *ends], ends, strict=False)]
            views[place] = built.height, built.begin_s, steps
    return views


def _find_ends(lots: dict[str, list[Note]]) -> list[float] | None:
    """Return when each stage was over, never before the one ahead of it."""
    ends: list[float] = []
    for stage in STAGES:
        times = [n.begin_s if stage.is_begin else n.end_s for n in lots[stage.what]]
        # The leader hears and judges no proposal: it has it, so two others do.
        needed = {"built": 1, "sent propose": 1, "heard propose": 2, "judged": 2}
        if stage.what == "sent notarize":
            # The leader's own vote goes out inside its proposal.
            times += [note.end_s for note in lots["sent propose"]]
        count = needed.get(stage.what, QUORUM)
        if len(times) < count:
            return None
        ends.append(max([sorted(times)[count - 1], *ends[-1:]]))
    return ends


def find_turns(notes: Sequence[Note]) -> tuple[list[float], list[float], list[float]]:
    """Return seconds from block to block, by what happened between them.

    Args:
        notes: Of one validator that went on.

    Returns:
        With no view between; with one that we waited out; with one that we nullified
        before its leader's time to propose had come.
    """
    final = sorted((n for n in notes if n.what == "finalized"), key=lambda n: n.end_s)
    left = {(n.epoch, n.view): n for n in notes if n.what == "sent nullify"}
    plain: list[float] = []
    waited: list[float] = []
    skipped: list[float] = []
    for before, after in pairwise(final):
        took = after.end_s - before.end_s
        between = [
            left.get((after.epoch, view))
            for view in range(before.view + 1, after.view)
            if after.epoch == before.epoch
        ]
        if after.epoch != before.epoch or len(between) > 1:
            continue
        if not between:
            plain.append(took)
        elif between[0] is not None:
            is_waited = between[0].begin_s - before.end_s > INTERVAL_S
            (waited if is_waited else skipped).append(took)
    return plain, waited, skipped


def _describe(name: str, samples: Sequence[float], unit: str, factor: float) -> Figure:
    p95 = format_number(compute_quantile(samples, 0.95) * factor)
    note = f"p95 {p95}, n {len(samples)}"
    return Figure(name, median(samples) * factor, unit, note)

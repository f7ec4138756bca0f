"""
Where a block's time goes from the leader's turn until it is final: four validators in
four processes (p2pchain.bench.chain.voter).

    leader's turn        all others                         a quorum
      build -> log -> proposal spreads -> judge -> log -> Notarize votes spread ->
      save the block -> log -> Finalize votes spread -> finalize in LevelDB

A step is over when a quorum is through it, for that is what the next one waits for:
three of four, so the slowest node decides nothing.
"""

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from p2pchain.bench.chain.voter import Note
from p2pchain.bench.chain.voters import COUNT, QUORUM, open_voters
from p2pchain.bench.lab.lab import BenchError, Lab
from p2pchain.bench.report import Figure, describe, summarise

TRANSFERS = 24
"""One at a time; with waiting about half a minute."""
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
        describe("submission to finality", total, "s", 1),
        describe("of that, until the next leader's turn", waits, "s", 1),
        describe("of that, from there on: the protocol", ways, "s", 1),
        describe("a leader's turn until final at a quorum", [*map(sum, whole)],
                  "ms", MS),
        *(
            summarise(f"  {stage.name}", [steps[at] * MS for steps in whole], "ms")
            for at, stage in enumerate(STAGES)
        ),
        Figure("CPU of a node and block, everything", median(cpu), "ms",
               "with start and network; no inference, no web interface"),
    ]  # fmt: skip


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

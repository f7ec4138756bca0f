"""
What a silent leader costs: seconds from one final block to the next.

Three kinds of step, told apart by when the observer gave a view up:

    plain     no view between two blocks
    waited    the leader was heard of lately, so its turn is waited out
    skipped   it has said nothing for many views, and its turn is left at once (R8)

Measured twice.  With processes (voter.py): whoever leads next is stopped just before
its turn, and let go on once the others are past it, again and again; then one stays
silent.  On virtual time (p2pchain.sim), where a message takes the same
time on every link and computing takes none: what is left is the protocol.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from consensus.messages import Certificate, Kind, Message, Nullify, Propose, get_view
from p2pchain.bench.chain.voter import Note
from p2pchain.bench.chain.voters import COUNT, Voters, open_voters
from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.report import Figure, describe
from p2pchain.sim.network import Weather
from p2pchain.sim.node import Node
from p2pchain.sim.world import Setup, World

TURNS = 28
"""That are waited out; some are lost to the ends of epochs."""
SILENT_S = 75.0
"""The first ten views are the ones that make a leader silent."""
INTERVAL_S = 1.0
LINK_MS = 50
"""On every link of the virtual network."""
VIRTUAL_MS = 600_000
STEP = 5
"""Of so many views one has a leader whose proposal is lost."""
OBSERVER = 0

Turns = tuple[list[float], list[float], list[float]]
"""Seconds from block to block: plain, waited, skipped."""


def run_silent_leader(lab: Lab) -> list[Figure]:
    """Measure with processes, then on virtual time."""
    with open_voters(lab.folder / "silent-voters") as voters:
        for number in range(TURNS):
            lab.report(f"silent turn {number + 1} of {TURNS}")
            _silence_turn(voters)
        lab.report(f"one of {COUNT} is silent for {SILENT_S:.0f} s")
        with _stopped(voters.pids[1]):
            time.sleep(SILENT_S)
            notes, _ = voters.read_notes(OBSERVER)
    return [
        *_describe("block to block", find_turns(notes)),
        *_describe(f"virtual time, links of {LINK_MS} ms", measure_virtually()),
    ]


def measure_virtually() -> Turns:
    """Return the steps of a simulated network with each kind of silence."""
    lossy = VirtualNetwork()
    lossy.network.filter = lossy.lose_some_proposals
    lossy.start()
    lossy.run(VIRTUAL_MS)
    silent = VirtualNetwork()
    silent.start([name for name in silent.nodes if name != "b"])
    silent.run(VIRTUAL_MS)
    plain, waited, _ = find_turns(lossy.notes)
    return plain, waited, find_turns(silent.notes)[2]


class VirtualNetwork(World):
    """Four validators and links of one length; notes what the first one says."""

    def __init__(self) -> None:
        super().__init__(1, Setup(size=COUNT, epoch_blocks=60))
        self.network.weather = Weather(delay_ms=(LINK_MS, LINK_MS))
        self.notes: list[Note] = []

    def broadcast(self, sender: Node, message: Message) -> None:
        """As a world does."""
        if sender.name == "a":
            match message:
                case Certificate(kind=Kind.FINALIZATION):
                    self._note("finalized", message)
                case Nullify():
                    self._note("sent nullify", message)
        super().broadcast(sender, message)

    def lose_some_proposals(self, _: str, __: str, message: Message | None) -> bool:
        """Say whether the network carries a message."""
        return not (isinstance(message, Propose) and get_view(message)[1] % STEP == 0)

    def _note(self, what: str, message: Message) -> None:
        at = self.now_ms / 1000
        self.notes.append(Note(what, *get_view(message), 0, at, at))


def find_turns(notes: Sequence[Note]) -> Turns:
    """Tell the steps from block to block apart.

    A step over two views or more, or into another epoch, is none of the kinds.

    Args:
        notes: Of one validator that went on.
    """
    final = sorted((n for n in notes if n.what == "finalized"), key=lambda n: n.end_s)
    left = {(n.epoch, n.view): n for n in notes if n.what == "sent nullify"}
    plain: list[float] = []
    waited: list[float] = []
    skipped: list[float] = []
    for before, after in pairwise(final):
        took = after.end_s - before.end_s
        between = range(before.view + 1, after.view)
        if after.epoch != before.epoch or len(between) > 1:
            continue
        if not between:
            plain.append(took)
        elif given_up := left.get((after.epoch, between[0])):
            is_waited = given_up.begin_s - before.end_s > INTERVAL_S
            (waited if is_waited else skipped).append(took)
    return plain, waited, skipped


def _silence_turn(voters: Voters) -> None:
    """Stop the next leader that is not the observer until the others are past it."""
    while True:
        turn = voters.ask(OBSERVER, "turn")
        if turn["leader"] != OBSERVER:
            break
    past = turn["height"] + 1
    with _stopped(voters.pids[turn["leader"]]):
        voters.ask(OBSERVER, "wait", height=past)
    # It votes again, so its next turn is not skipped.
    voters.ask(turn["leader"], "wait", height=past + 1)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _describe(where: str, turns: Turns) -> list[Figure]:
    kinds = (
        "no view is nullified",
        "a silent leader's turn is waited out",
        "a silent leader's turn is skipped (R8)",
    )
    return [
        describe(f"{where}, {kind}", lot, "s", 1)
        for kind, lot in zip(kinds, turns, strict=True)
        if lot
    ]

"""
Running many seeds, in several processes, and telling how each ended.

Seeds share nothing, so they run in worker processes of their own; results come back in
the order of seeds.  A run that fails says by which command it can be seen again.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from traceback import format_exception

from p2pchain.sim.errors import InvariantBroken
from p2pchain.sim.scenarios.scenarios import get_scenario
from p2pchain.sim.signatures import KeyRing, RealKeys, StandinScheme

CHUNK = 4
"""Seeds that a worker takes at a time."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do."""

    seed: int
    scenario: str
    chain: str
    """list, tree or mixed: every fourth seed a tree."""
    is_real: bool
    """Whether signatures are BLS."""

    @property
    def own_chain(self) -> str:
        """The chain of this very seed."""
        if self.chain == "mixed":
            return "tree" if self.seed % 4 == 3 else "list"
        return self.chain

    @property
    def command(self) -> str:
        """What to type to see this run again."""
        real = " --bls" if self.is_real else ""
        return (
            f"p2pchain sim --seeds {self.seed}:{self.seed + 1} "
            f"--scenario {self.scenario} --chain {self.own_chain}{real}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    job: Job
    trace: str
    """Fingerprint of the run; empty when it failed."""
    height: int
    events: int
    virtual_ms: int
    wall_s: float
    failure: str
    """What broke; empty when nothing did."""
    story: str
    """Where it broke, for the one who mends it."""


def run_job(job: Job) -> Outcome:
    """Run one seed and never raise."""
    keys: KeyRing = RealKeys() if job.is_real else StandinScheme()
    start_s = time.perf_counter()
    try:
        world = get_scenario(job.scenario)(job.seed, job.own_chain, keys)
    except Exception as error:
        is_broken = isinstance(error, InvariantBroken)
        name = "" if is_broken else f"{type(error).__name__}: "
        return Outcome(
            job=job,
            trace="",
            height=0,
            events=0,
            virtual_ms=0,
            wall_s=time.perf_counter() - start_s,
            failure=f"{name}{error}",
            story="".join(format_exception(error)),
        )
    return Outcome(
        job=job,
        trace=world.trace,
        height=world.judge.height,
        events=world.events,
        virtual_ms=world.now_ms,
        wall_s=time.perf_counter() - start_s,
        failure="",
        story="",
    )


def run_jobs(jobs: Iterable[Job], processes: int) -> Iterator[Outcome]:
    """Yield the outcomes in the order of the jobs."""
    if processes == 1:
        yield from map(run_job, jobs)
        return
    # Spawned, not forked: a worker is what a fresh process is, hash seed and all.
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(run_job, jobs, chunksize=CHUNK)

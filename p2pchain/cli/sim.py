"""`p2pchain sim`: run the deterministic simulator, and see a failing seed again."""

import argparse
import time
from typing import TYPE_CHECKING

from p2pchain.cli.options import add_command, positive
from p2pchain.cli.output import Output

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands
    from p2pchain.sim.runner import Outcome

PROGRESS_S = 15.0
"""Between two lines that say how far it is."""
MAX_TOLD = 20
"""Failures told in full; more of them rarely say more."""


def add_parser(commands: "Commands") -> None:
    """Add `sim`."""
    parser = add_command(
        commands, "sim", run, "run simulated networks, one per seed, under faults"
    )
    parser.add_argument(
        "--seeds",
        type=_seed_range,
        metavar="A:B",
        default=range(100),
        help="seeds from A up to, not including, B (default 0:100)",
    )
    parser.add_argument(
        "--scenario", default="storm", help="a name, or all (default storm)"
    )
    parser.add_argument(
        "--chain",
        choices=("list", "tree", "mixed"),
        default="mixed",
        help="what is agreed on: empty blocks, real blocks, or both (default)",
    )
    parser.add_argument(
        "--bls", action="store_true", help="real signatures instead of the stand-in"
    )
    parser.add_argument(
        "--jobs", type=positive, metavar="N", default=1, help="processes (1)"
    )
    parser.add_argument(
        "--twins",
        action="store_true",
        help="instead of seeds: every schedule of twins for four validators, two views",
    )
    parser.add_argument(
        "--bias",
        action="store_true",
        help="instead: measure how far colluding leaders steer the next seed",
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios")


def run(args: argparse.Namespace, output: Output) -> int:
    """Run what was asked for; 1 if anything broke."""
    # Imported here: no other command needs it.
    from p2pchain.sim.randomness import format_bias, measure_bias
    from p2pchain.sim.scenarios.scenarios import SCENARIOS

    if args.list:
        output.show({"scenarios": list(SCENARIOS)}, "\n".join(SCENARIOS))
        return 0
    if args.bias:
        rows = measure_bias()
        output.show([row.to_dict() for row in rows], format_bias(rows))
        return 0
    return _run_seeds(args, output)


def _run_seeds(args: argparse.Namespace, output: Output) -> int:
    from p2pchain.sim.runner import Job, run_jobs
    from p2pchain.sim.scenarios.scenarios import SCENARIOS, get_scenario

    names = list(SCENARIOS) if args.scenario == "all" else [args.scenario]
    for name in names:
        get_scenario(name)
    seeds = args.seeds
    if args.twins:
        from p2pchain.sim.scenarios.twins import list_schedules

        names, seeds = ["twins-exhaustive"], range(len(list_schedules()))
    jobs = [Job(s, name, args.chain, args.bls) for name in names for s in seeds]
    start_s = told_s = time.monotonic()
    done: list[Outcome] = []
    failed: list[Outcome] = []
    for outcome in run_jobs(jobs, args.jobs):
        done.append(outcome)
        if outcome.failure:
            failed.append(outcome)
            if len(failed) <= MAX_TOLD:
                _tell_failure(outcome, output, is_alone=len(jobs) == 1)
        if time.monotonic() - told_s > PROGRESS_S:
            told_s = time.monotonic()
            output.say(f"{len(done)} of {len(jobs)} runs, {len(failed)} broke")
    _show_summary(done, failed, time.monotonic() - start_s, output)
    return 1 if failed else 0


def _tell_failure(outcome: "Outcome", output: Output, *, is_alone: bool) -> None:
    output.say(f"BROKEN seed {outcome.job.seed}: {outcome.failure}")
    if is_alone:
        output.say(outcome.story)
    output.say(f"  {outcome.job.command}")


def _show_summary(
    done: "list[Outcome]", failed: "list[Outcome]", wall_s: float, output: Output
) -> None:
    blocks = sum(outcome.height for outcome in done)
    hours = sum(outcome.virtual_ms for outcome in done) / 3_600_000
    events = sum(outcome.events for outcome in done)
    value = {
        "runs": len(done),
        "broken": [outcome.job.seed for outcome in failed],
        "blocks": blocks,
        "events": events,
        "virtual_hours": round(hours, 2),
        "wall_s": round(wall_s, 1),
        "traces": {o.job.seed: o.trace for o in done} if len(done) <= 20 else {},
    }
    text = (
        f"{len(done)} runs, {len(failed)} broken: {blocks} blocks, {events} events, "
        f"{hours:.1f} virtual hours in {wall_s:.1f} s"
    )
    if len(done) == 1:
        text += f"\ntrace {done[0].trace}"
    output.show(value, text)


def _seed_range(text: str) -> range:
    first, separator, last = text.partition(":")
    if not first.isdecimal() or (separator and not last.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no range, such as 0:100")
    start = int(first)
    stop = int(last) if separator else start + 1
    if stop <= start:
        raise argparse.ArgumentTypeError(f"{text!r} holds no seed")
    return range(start, stop)

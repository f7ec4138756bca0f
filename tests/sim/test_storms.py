"""Storms and scenarios: a few seeds of each in every test run, thousands by hand."""

import subprocess
import sys

import pytest

from p2pchain.sim.runner import Job, run_job
from p2pchain.sim.scenarios.scenarios import SCENARIOS
from p2pchain.sim.scenarios.shard_scenarios import SHARD_SCENARIOS
from p2pchain.sim.scenarios.twins import list_schedules, run_schedule

STORMS = 150
TWINS_EVERY = 100
"""Of all schedules over two views; the others are for `p2pchain sim --twins`."""


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - SHARD_SCENARIOS.keys()))
def test_scenario(name):
    for seed in range(2):
        outcome = run_job(Job(seed, name, "list", False))
        assert not outcome.failure, f"{outcome.failure}\n{outcome.job.command}"


@pytest.mark.parametrize("start", range(0, STORMS, 25))
def test_storms(start):
    for seed in range(start, start + 25):
        outcome = run_job(Job(seed, "storm", "mixed", False))
        assert not outcome.failure, f"{outcome.failure}\n{outcome.job.command}"


def test_every_schedule_of_twins_is_counted_once():
    assert len(list_schedules()) == 8027


def test_twins():
    for schedule in list_schedules()[::TWINS_EVERY]:
        run_schedule(schedule)


@pytest.mark.parametrize("seed", range(2))
def test_storm_with_real_signatures(seed):
    outcome = run_job(Job(seed, "all-online", "list", True))
    assert not outcome.failure, f"{outcome.failure}\n{outcome.job.command}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_many_storms_with_real_signatures(seed):
    outcome = run_job(Job(seed, "storm", "list", True))
    assert not outcome.failure, f"{outcome.failure}\n{outcome.job.command}"


@pytest.mark.parametrize("job", ["5, 'storm', 'list'", "3, 'shards-spoiler', 'tree'"])
def test_same_seed_same_trace_in_any_process(job):
    """Also where the interpreter hashes strings in another way."""
    code = (
        "from p2pchain.sim.runner import Job, run_job;"
        f"print(run_job(Job({job}, False)).trace)"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": number, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(traces) == 1
    assert traces != {"\n"}

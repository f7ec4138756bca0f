"""Counting a node's CPU by stage, and what a load makes of it."""

import time

from p2pchain.bench.chain.meter import Counts, Meter, load_counts


def burn(seconds: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def test_a_stage_is_counted_without_those_inside_of_it() -> None:
    meter = Meter()
    with meter.measure("outer"):
        burn(0.01)
        with meter.measure("inner"):
            burn(0.03)
        with meter.measure("inner"):
            burn(0.03)
    counts = meter.read()
    assert counts.stages["inner"] >= 0.06
    assert 0.01 <= counts.stages["outer"] < counts.stages["inner"]
    assert sum(counts.stages.values()) <= counts.all_s


def test_an_error_passes_through_and_is_counted() -> None:
    meter = Meter()
    try:
        with meter.measure("failing"):
            burn(0.01)
            raise KeyError("x")
    except KeyError:
        pass
    assert meter.read().stages["failing"] >= 0.01
    assert meter.get_inner()[1:] == []


def test_counts_are_subtracted_and_read_back(tmp_path) -> None:
    before = Counts({"a": 1.0}, 2.0, 3.0)
    after = Counts({"a": 1.5, "b": 0.5}, 4.0, 6.0)
    assert after.subtract(before) == Counts({"a": 0.5, "b": 0.5}, 2.0, 3.0)
    path = tmp_path / "counts.json"
    path.write_text('{"stages": {"a": 1.0}, "main_s": 2.0, "all_s": 3.0}')
    assert load_counts(path) == before

"""The scheduler: pages, budgets, order; and that nobody waits for ever."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from inference.device.memory import MAX_SESSIONS, PAGE_TOKENS, CacheCost, Reservations
from inference.engine.pages import PagePool, PageRun, find_slots
from inference.engine.scheduler import (
    DECODE_TOKENS,
    LONE_STEP_TOKENS,
    MAX_REQUESTS,
    PREFILL_GRAIN,
    STEP_TOKENS,
    Scheduler,
    Work,
)
from inference.errors import BadRequest, Busy, UnknownSession, WrongPosition

COST = CacheCost(position_bytes=1)
PAGES = 200


def build(splits: bool = True, pages: int = PAGES) -> Scheduler:
    return Scheduler(COST, pages * PAGE_TOKENS, splits=splits)


def open_sessions(scheduler: Scheduler, *lengths: int) -> None:
    for number, length in enumerate(lengths):
        scheduler.open_session(bytes([number]), length)


def run_all(
    scheduler: Scheduler, on_step: Callable[[list[Work]], None] = lambda _: None
) -> list[int]:
    """Run steps until nothing waits; return the calls in the order of their ends."""
    done: list[int] = []
    while scheduler.has_work:
        works = scheduler.plan()
        assert works
        on_step(works)
        done += scheduler.finish(works)
    return done


def test_decodes_run_together_and_before_prefills() -> None:
    scheduler = build()
    open_sessions(scheduler, 100, 100, 100)
    scheduler.submit(0, b"\0", 0, 90)
    scheduler.submit(1, b"\1", 0, 1)
    scheduler.submit(2, b"\2", 0, 3)
    works = scheduler.plan()
    assert [(w.call, w.tokens, w.is_last) for w in works] == [
        (1, 1, True),
        (2, 3, True),
        (0, STEP_TOKENS - STEP_TOKENS // 4, False),
    ]
    assert scheduler.finish(works) == [1, 2]
    rest = scheduler.plan()
    assert [(w.call, w.position, w.offset, w.is_last) for w in rest] == [
        (0, 48, 48, True)
    ]


def test_a_prefill_that_is_alone_runs_whole() -> None:
    scheduler = build()
    open_sessions(scheduler, 1000)
    scheduler.submit(7, b"\0", 0, 128)
    assert [(w.tokens, w.is_last) for w in scheduler.plan()] == [(128, True)]
    scheduler.finish(scheduler.plan())
    scheduler.submit(8, b"\0", 128, LONE_STEP_TOKENS + 1)
    assert [w.tokens for w in scheduler.plan()] == [LONE_STEP_TOKENS]


def test_a_short_prompt_is_not_stuck_behind_a_long_one() -> None:
    scheduler = build()
    open_sessions(scheduler, 2100, 100)
    scheduler.submit(1, b"\0", 0, 2048)
    scheduler.finish(scheduler.plan()[:0])
    scheduler.submit(2, b"\1", 0, 24)
    steps: list[list[Work]] = []
    assert run_all(scheduler, steps.append) == [2, 1]
    assert any(w.call == 2 and w.is_last for w in steps[0])


def test_an_engine_that_cannot_split_gets_whole_prompts_one_a_step() -> None:
    scheduler = build(splits=False)
    open_sessions(scheduler, 300, 300, 10)
    scheduler.submit(1, b"\0", 0, 300)
    scheduler.submit(2, b"\1", 0, 300)
    scheduler.submit(3, b"\2", 0, 1)
    works = scheduler.plan()
    assert [(w.call, w.tokens) for w in works] == [(3, 1), (1, 300)]
    scheduler.finish(works)
    assert [(w.call, w.tokens) for w in scheduler.plan()] == [(2, 300)]


def test_a_rollback_is_taken_when_its_turn_comes() -> None:
    scheduler = build()
    open_sessions(scheduler, 50)
    scheduler.submit(1, b"\0", 0, 20)
    scheduler.submit(2, b"\0", 15, 2)
    assert scheduler.get_length(b"\0") == 0
    assert run_all(scheduler) == [1, 2]
    assert scheduler.get_length(b"\0") == 17
    scheduler.submit(3, b"\0", 0, 1)
    assert scheduler.get_length(b"\0") == 0


@pytest.mark.parametrize(
    ("name", "position", "tokens", "error"),
    [
        (b"x", 0, 1, UnknownSession),
        (b"\0", 21, 1, WrongPosition),
        (b"\0", -1, 1, WrongPosition),
        (b"\0", 20, 31, WrongPosition),
    ],
)
def test_impossible_requests_change_nothing(
    name: bytes, position: int, tokens: int, error: type[Exception]
) -> None:
    scheduler = build()
    open_sessions(scheduler, 50)
    scheduler.submit(1, b"\0", 0, 20)
    with pytest.raises(error):
        scheduler.submit(2, name, position, tokens)
    scheduler.submit(3, b"\0", 20, 30)
    assert run_all(scheduler) == [1, 3]


def test_requests_are_bounded() -> None:
    scheduler = build(pages=10_000)
    open_sessions(scheduler, MAX_REQUESTS + 1)
    for call in range(MAX_REQUESTS):
        scheduler.submit(call, b"\0", call, 1)
    with pytest.raises(Busy):
        scheduler.submit(MAX_REQUESTS, b"\0", MAX_REQUESTS, 1)
    assert len(run_all(scheduler)) == MAX_REQUESTS


def test_a_failed_request_takes_those_behind_it_along() -> None:
    scheduler = build()
    open_sessions(scheduler, 50, 50)
    scheduler.submit(1, b"\0", 0, 20)
    scheduler.submit(2, b"\0", 20, 1)
    scheduler.submit(3, b"\1", 0, 1)
    assert scheduler.fail(b"\0") == [1, 2]
    assert run_all(scheduler) == [3]
    assert scheduler.get_length(b"\0") == 0
    scheduler.submit(4, b"\0", 0, 1)
    assert run_all(scheduler) == [4]


def test_a_closed_session_frees_its_pages_and_drops_its_requests() -> None:
    scheduler = build(pages=2)
    scheduler.open_session(b"a", 2 * PAGE_TOKENS)
    scheduler.submit(1, b"a", 0, 20)
    works = scheduler.plan()
    assert scheduler.close_session(b"a") == [1]
    assert scheduler.close_session(b"a") == []
    assert scheduler.finish(works) == []
    assert not scheduler.has_work
    scheduler.open_session(b"b", 2 * PAGE_TOKENS)
    with pytest.raises(Busy):
        scheduler.open_session(b"c", 1)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20), st.booleans())
def test_every_request_ends_and_every_step_keeps_its_budget(
    lengths: list[int], splits: bool
) -> None:
    scheduler = build(splits, pages=600)
    open_sessions(scheduler, *lengths)
    waiting = dict.fromkeys(range(len(lengths)), 0)
    for call, length in enumerate(lengths):
        scheduler.submit(call, bytes([call]), 0, length)

    def on_step(works: list[Work]) -> None:
        budget = STEP_TOKENS if len(lengths) > 1 else LONE_STEP_TOKENS
        decodes = [w for w in works if lengths[w.call] <= DECODE_TOKENS]
        prefills = [w for w in works if lengths[w.call] > DECODE_TOKENS]
        if splits:
            assert sum(w.tokens for w in works) <= budget
            for work in prefills:
                assert work.is_last or work.tokens >= PREFILL_GRAIN
            if len(lengths) > 1:
                assert sum(w.tokens for w in prefills) <= budget - budget // 4
        else:
            assert len(prefills) <= 1
        assert len({w.session_id for w in works}) == len(works)
        assert all(w.is_last for w in decodes)
        served = {w.call for w in works}
        for call in waiting:
            waiting[call] = 0 if call in served else waiting[call] + 1
        # In turns: nobody waits for more steps than there are others.
        assert max(waiting.values()) <= len(lengths)
        for work in works:
            if work.is_last:
                del waiting[work.call]
        waiting[-1] = 0

    assert sorted(run_all(scheduler, on_step)) == list(range(len(lengths)))


def test_a_stream_of_decodes_does_not_starve_a_prefill() -> None:
    scheduler = build(pages=2000)
    open_sessions(scheduler, *[100] * 90)
    scheduler.submit(1000, bytes([89]), 0, 100)
    for number in range(89):
        scheduler.submit(number, bytes([number]), 0, 1)
    steps = 0
    done: list[int] = []
    while 1000 not in done:
        for number in done:
            length = scheduler.get_length(bytes([number]))
            scheduler.submit(number, bytes([number]), length, 1)
        done = scheduler.finish(scheduler.plan())
        steps += 1
    assert steps == -(-100 // PREFILL_GRAIN)


class PoolMachine(RuleBasedStateMachine):
    """Pages are taken and given back; no page is ever in two hands."""

    held = Bundle("held")

    @initialize(pages=st.integers(0, 60))
    def begin(self, pages: int) -> None:
        self.total = pages
        self.pool = PagePool(pages)
        self.taken: list[tuple[PageRun, ...]] = []

    @rule(target=held, pages=st.integers(1, 20))
    def take(self, pages: int) -> tuple[PageRun, ...]:
        if pages > self.pool.free_pages:
            return ()
        runs = self.pool.take(pages)
        assert sum(run.count for run in runs) == pages
        self.taken.append(runs)
        return runs

    @rule(runs=consumes(held))
    def give_back(self, runs: tuple[PageRun, ...]) -> None:
        if runs:
            self.taken.remove(runs)
            self.pool.give_back(runs)

    @invariant()
    def no_page_twice_and_none_lost(self) -> None:
        runs = sorted([run for each in self.taken for run in each])
        assert all(a.end <= b.start for a, b in pairwise(runs))
        used = sum(run.count for run in runs)
        assert used + self.pool.free_pages == self.total
        free = self.pool._free
        assert all(a.end < b.start for a, b in pairwise(free))


PoolMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestPool = PoolMachine.TestCase


def test_a_whole_run_is_preferred_and_the_smallest_that_fits() -> None:
    pool = PagePool(20)
    first, second, third = pool.take(4), pool.take(6), pool.take(2)
    assert (first, second, third) == (
        (PageRun(0, 4),),
        (PageRun(4, 6),),
        (PageRun(10, 2),),
    )
    pool.give_back(first)
    assert pool.take(3) == (PageRun(0, 3),)
    assert pool.take(9) == (PageRun(12, 8), PageRun(3, 1))


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_slots_are_those_of_the_positions(counts: list[int], a: int, b: int) -> None:
    runs, start = [], 3
    for count in counts:
        runs.append(PageRun(start, count))
        start += count + 2
    total = sum(counts) * PAGE_TOKENS
    low, high = sorted((a % (total + 1), b % (total + 1)))
    every = [
        run.start * PAGE_TOKENS + offset
        for run in runs
        for offset in range(run.count * PAGE_TOKENS)
    ]
    found = find_slots(tuple(runs), low, high)
    assert [s for first, last in found for s in range(first, last)] == every[low:high]


@given(
    st.integers(0, 50),
    st.integers(0, 3000),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60),
)
def test_promises_never_exceed_the_budget(
    state_bytes: int, budget: int, events: list[tuple[int, int]]
) -> None:
    cost = CacheCost(2, state_bytes)
    reservations = Reservations(cost, budget)
    expected: dict[bytes, int] = {}
    for number, positions in events:
        name = bytes([number])
        if not positions:
            reservations.close(name)
            expected.pop(name, None)
            continue
        wanted = cost.compute_bytes(positions)
        if name in expected:
            with pytest.raises(BadRequest):
                reservations.open(name, positions)
        elif sum(expected.values()) + wanted > budget:
            with pytest.raises(Busy):
                reservations.open(name, positions)
        else:
            reservations.open(name, positions)
            expected[name] = wanted
        assert reservations.used_bytes == sum(expected.values()) <= budget
        assert len(reservations) == len(expected)


def test_sessions_without_a_cache_are_bounded_by_their_number() -> None:
    reservations = Reservations(CacheCost(0), 0)
    for number in range(MAX_SESSIONS):
        reservations.open(number.to_bytes(2, "big"), 2**32 - 1)
    with pytest.raises(Busy, match="sessions"):
        reservations.open(b"one more", 1)

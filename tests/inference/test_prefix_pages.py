"""Shared pages: everyone reads what it wrote, and no page is in two hands."""

from collections import Counter
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tiny_models import HIDDEN, LAYERS, save_model

from inference.device.memory import PAGE_TOKENS, CacheCost
from inference.engine.executor import Executor
from inference.engine.ghost_executor import GhostExecutor
from inference.engine.pages import PageRun, build_runs, find_slots
from inference.engine.prefix_index import PrefixIndex
from inference.engine.ragged import TEST_TOKENS, RaggedExecutor, build_ragged
from inference.engine.scheduler import CHOICE, Scheduler
from inference.engine.stage import StageEngine
from inference.errors import BadAnswer, Busy, UnknownSession, WrongPosition
from inference.model.split import load_stage

COST = CacheCost(position_bytes=1)


def compute_keys(tokens: list[int]) -> list[bytes]:
    """Return a key per full page, of everything up to its end."""
    ends = range(PAGE_TOKENS, len(tokens) + 1, PAGE_TOKENS)
    return [blake2b(repr(tokens[:end]).encode()).digest()[:32] for end in ends]


# The index


def test_pages_are_found_up_to_the_first_unknown_key() -> None:
    index = PrefixIndex()
    assert index.add(b"a", 4)
    assert index.add(b"b", 5)
    assert not index.add(b"a", 6)
    assert not index.add(b"c", 4)
    assert index.hold([b"a", b"b", b"c"]) == [4, 5]
    assert index.hold([b"x", b"a"]) == []
    assert (len(index), index.unused_pages) == (2, 0)


def test_what_was_let_go_first_is_forgotten_first_and_a_held_page_never() -> None:
    index = PrefixIndex()
    for number, key in enumerate((b"a", b"b", b"c")):
        index.add(key, number)
    index.let_go([2, 1, 0])
    assert index.hold([b"a"]) == [0]
    assert index.evict() == 2
    index.let_go([0])
    assert [index.evict(), index.evict(), index.evict()] == [1, 0, None]
    assert index.hold([b"a"]) == []


def test_a_name_is_taken_away_from_the_only_holder_alone() -> None:
    index = PrefixIndex()
    index.add(b"a", 0)
    index.hold([b"a"])
    assert not index.claim(0)
    index.let_go([0])
    assert index.claim(0)
    assert (len(index), index.evict()) == (0, None)


def test_runs_are_as_few_as_the_pages_allow() -> None:
    assert build_runs([]) == ()
    assert build_runs([7, 8, 2, 3, 4, 4]) == (
        PageRun(7, 2),
        PageRun(2, 3),
        PageRun(4, 1),
    )


# The scheduler


def build(pages: int = 20) -> Scheduler:
    return Scheduler(COST, pages * PAGE_TOKENS)


def run(scheduler: Scheduler, name: bytes, position: int, tokens: int) -> None:
    scheduler.submit(0, name, position, tokens)
    while scheduler.has_work:
        scheduler.finish(scheduler.plan())


def test_a_second_session_begins_where_the_first_one_was() -> None:
    scheduler = build()
    keys = compute_keys(list(range(50)))
    assert scheduler.open_session(b"a", 64, keys) == 0
    run(scheduler, b"a", 0, 40)
    scheduler.keep(b"a", 0, keys)
    # The third page is not full.
    assert scheduler.open_session(b"b", 64, keys) == 2 * PAGE_TOKENS
    assert scheduler.get_length(b"b") == 2 * PAGE_TOKENS
    scheduler.submit(1, b"b", 32, 4)
    scheduler.submit(2, b"a", 40, 8)
    first, second = sorted(scheduler.plan(), key=lambda work: work.call)
    assert find_slots(first.pages, 0, 32) == find_slots(second.pages, 0, 32)
    assert find_slots(first.pages, 32, 64) != find_slots(second.pages, 32, 64)


def test_a_session_never_begins_with_all_of_its_positions() -> None:
    scheduler = build()
    keys = compute_keys(list(range(32)))
    scheduler.open_session(b"a", 40)
    run(scheduler, b"a", 0, 32)
    scheduler.keep(b"a", 0, keys)
    assert scheduler.open_session(b"b", 32, keys) == PAGE_TOKENS
    assert scheduler.open_session(b"c", 33, keys) == 2 * PAGE_TOKENS


def test_the_next_turn_lies_behind_what_is_kept_of_the_last_one() -> None:
    scheduler = build()
    keys = compute_keys(list(range(48)))
    scheduler.open_session(b"a", 100)
    run(scheduler, b"a", 0, 48)
    scheduler.keep(b"a", 0, keys)
    scheduler.close_session(b"a")
    assert scheduler.open_session(b"b", 150, keys) == 48
    scheduler.submit(1, b"b", 48, 1)
    assert len(scheduler.plan()[0].pages) == 1


def test_kept_pages_make_room_before_anybody_is_refused() -> None:
    scheduler = build(pages=4)
    keys = compute_keys(list(range(64)))
    scheduler.open_session(b"a", 64)
    run(scheduler, b"a", 0, 64)
    scheduler.keep(b"a", 0, keys)
    with pytest.raises(Busy):
        scheduler.open_session(b"b", 1)
    scheduler.close_session(b"a")
    # All four pages are kept; another one needs three, the last ones go.
    scheduler.open_session(b"b", 3 * PAGE_TOKENS)
    assert scheduler.open_session(b"c", PAGE_TOKENS, keys) == 0
    scheduler.close_session(b"c")
    scheduler.close_session(b"b")
    assert scheduler.open_session(b"d", 64, keys) == 0


def fill_in_turns(scheduler: Scheduler) -> None:
    """Fill forty pages with sessions of two; every other one of them is over."""
    for number in range(20):
        name = bytes([number])
        scheduler.open_session(name, 2 * PAGE_TOKENS)
        run(scheduler, name, 0, 2 * PAGE_TOKENS)
        scheduler.keep(name, 0, compute_keys([number] * 2 * PAGE_TOKENS))
    for number in range(0, 20, 2):
        scheduler.close_session(bytes([number]))


def test_what_is_kept_gives_way_to_pages_side_by_side() -> None:
    scheduler = build(pages=40)
    fill_in_turns(scheduler)
    for number in (9, 5, 7):
        scheduler.close_session(bytes([number]))
    # Twenty-six kept pages, of which those of eight to ten lie side by side first.
    scheduler.open_session(b"x", 6 * PAGE_TOKENS)
    scheduler.submit(1, b"x", 0, 1)
    assert scheduler.plan()[0].pages == (PageRun(16, 6),)


def test_not_everything_is_forgotten_for_what_cannot_be() -> None:
    scheduler = build(pages=40)
    fill_in_turns(scheduler)
    # Held pages lie between the kept ones: three side by side there cannot be.
    scheduler.open_session(b"x", 3 * PAGE_TOKENS)
    scheduler.submit(1, b"x", 0, 1)
    assert [run.count for run in scheduler.plan()[0].pages] == [2, 1]
    # Twelve were free to choose from, and nine of them still are.
    assert scheduler._index.unused_pages == 20 - CHOICE * 3


def test_keys_of_pages_that_are_not_there_change_nothing() -> None:
    scheduler = build()
    keys = compute_keys(list(range(80)))
    scheduler.open_session(b"a", 80)
    run(scheduler, b"a", 0, 20)
    scheduler.keep(b"a", 0, keys)
    scheduler.keep(b"a", 3, keys[3:])
    scheduler.keep(b"a", 2**32 - 1, keys)
    scheduler.keep(b"nobody", 0, keys)
    assert scheduler.open_session(b"b", 80, keys) == PAGE_TOKENS


class SharingMachine(RuleBasedStateMachine):
    """Sessions of a few tokens, so that they share; the store is a list of tokens.

    Whenever a session has computed, it must find in its slots what it had written, or
    somebody else for the same beginning.
    """

    @initialize(pages=st.integers(8, 24))
    def begin(self, pages: int) -> None:
        self.pages = pages
        self.scheduler = Scheduler(COST, pages * PAGE_TOKENS)
        self.store: list[int | None] = [None] * pages * PAGE_TOKENS
        self.stored: dict[bytes, list[int]] = {}
        """What each session has in the store."""
        self.waiting: dict[bytes, list[tuple[int, list[int]]]] = {}
        """Position and tokens of its requests."""
        self.sizes: dict[bytes, int] = {}
        self.texts: dict[bytes, list[int]] = {}
        """What each session means to compute."""
        self.calls = 0

    @rule(
        name=st.sampled_from([b"a", b"b", b"c", b"d"]),
        script=st.integers(0, 1),
        fork=st.integers(1, 4),
        size=st.sampled_from([1, 16, 40, 64, 75, 90]),
    )
    def open(self, name: bytes, script: int, fork: int, size: int) -> None:
        if name not in self.sizes:
            self.begin_session(name, [0] * fork * PAGE_TOKENS + [script] * 100, size)

    @rule(data=st.data(), back=st.integers(0, 64))
    def share_and_go_back(self, data: st.DataObject, back: int) -> None:
        """Begin like another session, and go back in what both have."""
        self.run_and_keep()
        if not self.sizes or b"twin" in self.sizes:
            return
        name = data.draw(st.sampled_from(sorted(self.sizes)))
        stored = list(self.stored[name])
        self.begin_session(b"twin", [*stored, 5], self.sizes[name])
        if b"twin" in self.sizes:
            who = data.draw(st.sampled_from([b"twin", name]))
            position = max(0, len(self.stored[who]) - back)
            self.ask(who, position, [8] * min(3, self.sizes[who] - position))

    def begin_session(self, name: bytes, text: list[int], size: int) -> None:
        keys = compute_keys(text[:size])
        promised = sum(-(-each // PAGE_TOKENS) for each in self.sizes.values())
        if promised + -(-size // PAGE_TOKENS) > self.pages:
            with pytest.raises(Busy):
                self.scheduler.open_session(name, size, keys)
            return
        cached = self.scheduler.open_session(name, size, keys)
        assert cached % PAGE_TOKENS == 0
        assert cached < size
        self.sizes[name], self.stored[name] = size, text[:cached]
        self.waiting[name], self.texts[name] = [], text
        self.check_store(name)

    def ask(self, name: bytes, position: int, tokens: list[int]) -> None:
        if tokens:
            self.calls += 1
            self.scheduler.submit(self.calls, name, position, len(tokens))
            self.waiting[name].append((position, tokens))
            self.follow(name)

    @rule(
        data=st.data(),
        tokens=st.integers(1, 60),
        deviates=st.sampled_from([False, False, False, True]),
        back=st.sampled_from([0, 0, 0, 1, 7, 20, 100]),
    )
    def submit(
        self, data: st.DataObject, tokens: int, deviates: bool, back: int
    ) -> None:
        if not self.sizes:
            return
        name = data.draw(st.sampled_from(sorted(self.sizes)))
        end = len(self.stored[name])
        if self.waiting[name]:
            end = self.waiting[name][-1][0] + len(self.waiting[name][-1][1])
        position = max(0, end - back)
        tokens = min(tokens, self.sizes[name] - position)
        text = self.texts[name][position : position + tokens]
        self.ask(name, position, [9] * tokens if deviates else text)

    @rule()
    def run_and_keep(self) -> None:
        """Let every session compute its text, and keep all of it."""
        for name, text in self.texts.items():
            start, end = len(self.stored[name]), self.sizes[name]
            if not self.waiting[name]:
                self.ask(name, start, text[start:end])
        while self.scheduler.has_work:
            self.step()
        for name, stored in self.stored.items():
            self.scheduler.keep(name, 0, compute_keys(stored))

    @rule()
    def step(self) -> None:
        works = self.scheduler.plan()
        for copy in self.scheduler.take_copies() if works else []:
            source, target = copy.source * PAGE_TOKENS, copy.target * PAGE_TOKENS
            page = self.store[source : source + PAGE_TOKENS]
            self.store[target : target + PAGE_TOKENS] = page
        for work in works:
            name, end = work.session_id, work.position + work.tokens
            position, tokens = self.waiting[name][0]
            given = tokens[work.offset : work.offset + work.tokens]
            assert work.position == position + work.offset
            slots = self.find(work.pages, work.position, end)
            for slot, token in zip(slots, given, strict=True):
                self.store[slot] = token
            self.stored[name] = self.stored[name][: work.position] + given
        for work in works:
            name, end = work.session_id, work.position + work.tokens
            found = [self.store[slot] for slot in self.find(work.pages, 0, end)]
            assert found == self.stored[name]
        self.scheduler.finish(works)
        for work in works:
            if work.is_last:
                self.waiting[work.session_id].pop(0)
            self.follow(work.session_id)

    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        if self.sizes:
            name = data.draw(st.sampled_from(sorted(self.sizes)))
            keys = compute_keys(self.stored[name])
            first = data.draw(st.integers(0, len(keys)))
            self.scheduler.keep(name, first, [*keys[first:], b"not full"])

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.sizes:
            name = data.draw(st.sampled_from(sorted(self.sizes)))
            self.scheduler.close_session(name)
            for each in (self.sizes, self.stored, self.waiting, self.texts):
                del each[name]

    def follow(self, name: bytes) -> None:
        """Forget what the next request of a session goes back behind."""
        if self.waiting[name]:
            del self.stored[name][self.scheduler.get_length(name) :]
        assert len(self.stored[name]) == self.scheduler.get_length(name)

    def find(self, pages: tuple[PageRun, ...], start: int, end: int) -> list[int]:
        ranges = find_slots(pages, start, end)
        return [slot for first, last in ranges for slot in range(first, last)]

    def check_store(self, name: bytes) -> None:
        pages = self.scheduler._sessions[name].runs
        slots = self.find(pages, 0, len(self.stored[name]))
        # Copies that are due come before anything else is written.
        if not self.scheduler._copies:
            assert [self.store[slot] for slot in slots] == self.stored[name]

    @invariant()
    def every_page_is_free_or_used_or_kept(self) -> None:
        scheduler = self.scheduler
        index, sessions = scheduler._index, scheduler._sessions.values()
        named: Counter[int] = Counter()
        own: Counter[int] = Counter()
        for session in sessions:
            assert build_runs(session.pages) == session.runs
            for number, page in enumerate(session.pages):
                (named if number in session.named else own)[page] += 1
        free = [p for r in scheduler._pool._free for p in range(r.start, r.end)]
        kept = {entry.page: entry.users for entry in index._entries.values()}
        assert named == +Counter(kept)
        assert len(kept) == len(index) == len(index._keys)
        unused = [index._entries[key].page for key in index._unused]
        assert sorted(unused) == sorted(p for p, users in kept.items() if not users)
        everywhere = [*free, *own.elements(), *kept]
        assert sorted(everywhere) == list(range(self.pages))

    @invariant()
    def no_more_is_promised_than_there_is(self) -> None:
        reservations = self.scheduler.reservations
        assert reservations.used_bytes <= reservations.budget_bytes


SharingMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None
)
TestSharing = SharingMachine.TestCase


# The engines


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"))


def draw(tokens: list[int]) -> torch.Tensor:
    """Return hidden states (1, T, H) in which a token looks the same everywhere."""
    table = torch.randn(100, HIDDEN, generator=torch.Generator().manual_seed(1))
    return table[tokens][None]


def run_through(
    engine: StageEngine, name: bytes, tokens: list[int], pieces: int
) -> tuple[int, torch.Tensor]:
    """Open a session, compute what is not here, and keep all of it.

    Returns:
        The positions that were here, and the answers to the others.
    """
    keys = compute_keys(tokens)
    position = cached = engine.open_session(name, len(tokens) + 9, keys)
    answers = []
    while position < len(tokens):
        end = min(position + pieces, len(tokens))
        answers.append(engine.forward(name, position, draw(tokens[position:end])))
        position = end
    engine.keep(name, 0, keys)
    return cached, torch.cat(answers, dim=1)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    worst = (found - expected).abs().max() / expected.abs().max()
    # Another order of summation, as between any two passes (docs/adr/0030).
    assert worst <= 1e-5, worst


@pytest.mark.parametrize("family", ["llama", "qwen2-window", "gemma2", "gpt2"])
@pytest.mark.parametrize("pieces", [23, 1])
def test_a_shared_beginning_gives_what_computing_it_gives(
    tmp_path: Path, family: str, pieces: int
) -> None:
    directory = save_model(tmp_path, family)
    part = load_stage(directory, range(1, 3))
    engine = StageEngine(part, build_ragged(part, draw([1] * TEST_TOKENS)))
    tokens = [(7 * n * n + n) % 97 for n in range(60)]
    other = [*tokens[:40], *range(20)]
    reference = StageEngine(part, GhostExecutor(part))
    for name, each, here in (
        (b"a", tokens, 0),
        (b"b", tokens, 48),
        (b"c", other, 32),
        (b"d", other, 48),
    ):
        # One by one, tokens attend to shared pages and their own without a copy.
        cached, answers = run_through(engine, name, each, pieces)
        assert cached == here
        reference.open_session(name, 80)
        assert_close(answers, reference.forward(name, 0, draw(each))[:, cached:])


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sessions_that_share_and_go_back_equal_each_alone(
    llama: Path, data: st.DataObject
) -> None:
    executor = get_executor(llama)
    budget = 9 * PAGE_TOKENS * executor.cost.position_bytes
    engine = StageEngine(executor.part, executor, kv_budget_bytes=budget)
    texts: dict[bytes, list[int]] = {}
    for number in range(data.draw(st.integers(2, 8))):
        name = bytes([number])
        fork = data.draw(st.sampled_from([5, 16, 20, 32, 40]))
        tokens = [*range(fork), *[50 + data.draw(st.integers(0, 2))] * (44 - fork)]
        try:
            cached, answers = run_through(engine, name, tokens, pieces=30)
        except Busy:
            engine.close_session(texts and next(iter(texts)))
            texts.pop(next(iter(texts)))
            continue
        texts[name] = tokens
        assert_close(answers, compute_alone(executor, tokens)[:, cached:])
        # Somebody goes back, also into what others share, and says something else.
        again = data.draw(st.sampled_from(sorted(texts)))
        position = data.draw(st.integers(0, 43))
        texts[again] = [*texts[again][:position], 90, 91]
        answer = engine.forward(again, position, draw([90, 91]))
        assert_close(answer, compute_alone(executor, texts[again])[:, position:])
        texts[again] += [92] * (44 - len(texts[again]))
        if (rest := texts[again][position + 2 :])[:1]:
            engine.forward(again, position + 2, draw(rest))
        engine.keep(again, 0, compute_keys(texts[again]))


_executors: dict[Path, RaggedExecutor] = {}


def get_executor(directory: Path) -> RaggedExecutor:
    if directory not in _executors:
        part = load_stage(directory, range(LAYERS))
        _executors[directory] = build_ragged(part, draw([1] * TEST_TOKENS))
    return _executors[directory]


def compute_alone(executor: Executor, tokens: list[int]) -> torch.Tensor:
    engine = StageEngine(executor.part, GhostExecutor(executor.part))
    engine.open_session(b"alone", len(tokens))
    return engine.forward(b"alone", 0, draw(tokens))


def test_the_general_engine_shares_nothing(llama: Path) -> None:
    part = load_stage(llama, range(LAYERS))
    engine = StageEngine(part, GhostExecutor(part))
    tokens = list(range(40))
    assert run_through(engine, b"a", tokens, pieces=40)[0] == 0
    assert run_through(engine, b"b", tokens, pieces=40)[0] == 0


def test_pages_of_another_stage_are_as_good_as_computed_ones(llama: Path) -> None:
    part = get_executor(llama).part
    tokens = [(5 * n * n + n) % 97 for n in range(60)]
    giver, taker = (
        StageEngine(part, build_ragged(part, draw([1] * TEST_TOKENS))) for _ in range(2)
    )
    run_through(giver, b"a", tokens, pieces=30)
    keys = compute_keys(tokens)
    read = giver.read_pages([*keys[:2], b"unknown", keys[2]])
    assert [len(page) for page in read] == [PAGE_TOKENS * giver.cost.position_bytes] * 2
    taker.open_session(b"b", 70)
    spoilt = bytearray(read[1])
    spoilt[:4] = torch.tensor([torch.nan]).numpy().tobytes()
    for wrong in ([read[0], bytes(spoilt)], [read[0][:-1]], [read[0] + b"x"], [b""]):
        with pytest.raises(BadAnswer):
            taker.write_pages(b"b", [memoryview(page) for page in wrong])
    with pytest.raises(WrongPosition):
        taker.write_pages(b"b", [memoryview(page) for page in read] * 3)
    with pytest.raises(UnknownSession):
        taker.write_pages(b"c", [memoryview(read[0])])
    assert taker.write_pages(b"b", [memoryview(page) for page in read]) == 32
    answers = taker.forward(b"b", 32, draw(tokens[32:]))
    assert_close(answers, compute_alone(taker.executor, tokens)[:, 32:])
    with pytest.raises(WrongPosition):
        # Not behind positions that do not end a page.
        taker.write_pages(b"b", [memoryview(read[0])])

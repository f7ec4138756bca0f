"""One rule for both sides: which step may come next, whatever a header says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.device.memory import PAGE_TOKENS
from inference.protocol.errors import BadMessage
from inference.protocol.steps import (
    MAX_DECODE_TOKENS,
    PREFILL_TOKENS,
    RANGE_STEPS,
    Prices,
    Schedule,
)

PRICES = Prices(layers=3, input_price=5, output_price=20, unit_price=7)


def is_allowed(schedule, position, tokens):
    try:
        schedule.check(position, tokens)
    except BadMessage:
        return False
    return True


@given(st.integers(1, 2000), st.integers(0, 20), st.data())
def test_without_guesses_every_position_is_computed_once(prompt, pages, data):
    cached = min(pages * PAGE_TOKENS, (prompt - 1) // PAGE_TOKENS * PAGE_TOKENS)
    schedule = Schedule(prompt_tokens=prompt, max_positions=prompt + 60, cached=cached)
    start = data.draw(st.integers(0, cached // PAGE_TOKENS)) * PAGE_TOKENS
    step = schedule.propose(start)
    position = start
    while position < prompt + 40:
        assert step == schedule.check(step.position, step.tokens)
        assert (step.position, step.is_prefill) == (position, position < prompt)
        if step.is_prefill:
            assert step.tokens == min(PREFILL_TOKENS, prompt - position)
            assert step.closes_range
        else:
            decoded = position - prompt + 1
            assert step.tokens == 1
            assert step.closes_range == (decoded % RANGE_STEPS == 0)
        position = step.end
        schedule = schedule.advance(step)
        step = schedule.propose()
    assert schedule.number == -(-(prompt - start) // PREFILL_TOKENS) + 40


@given(st.integers(0, 50), st.integers(0, 500), st.integers(1, 300), st.integers(1, 40))
def test_an_answer_in_sessions_of_one_token_costs_no_less(inp, out, prompt, tokens):
    """Each of them begins behind the pages that the one before it has left."""
    prices = Prices(layers=3, input_price=inp, output_price=out, unit_price=7)
    schedule = Schedule(prompt_tokens=prompt, max_positions=prompt + tokens)
    whole = split = 0
    while schedule.end < prompt + tokens - 1:
        step = schedule.propose()
        whole += prices.compute_units(step)
        schedule = schedule.advance(step)
    for length in range(prompt, prompt + tokens):
        cached = (length - 1) // PAGE_TOKENS * PAGE_TOKENS if length > prompt else 0
        one = Schedule(prompt_tokens=length, max_positions=length + 1, cached=cached)
        position = cached
        while position < length:
            step = one.propose(position)
            split += prices.compute_units(step)
            one, position = one.advance(step), step.end
    assert split >= whole


@st.composite
def walks(draw):
    """Return a schedule after some honest steps, and the steps."""
    prompt = draw(st.integers(1, 300))
    schedule = Schedule(
        prompt_tokens=prompt,
        max_positions=prompt + draw(st.integers(1, 80)),
        cached=draw(st.integers(0, (prompt - 1) // PAGE_TOKENS)) * PAGE_TOKENS,
        rolls_back=draw(st.booleans()),
    )
    steps = []
    for _ in range(draw(st.integers(0, 30))):
        if schedule.is_fresh:
            pages = schedule.cached // PAGE_TOKENS
            position = draw(st.integers(0, pages)) * PAGE_TOKENS
        elif schedule.rolls_back and schedule.end > prompt:
            position = draw(st.integers(prompt, schedule.end))
        else:
            position = schedule.end
        room = min(MAX_DECODE_TOKENS, schedule.max_positions - position)
        if room < 1:
            break
        step = schedule.propose(position, draw(st.integers(1, room)))
        steps.append(step)
        schedule = schedule.advance(step)
    return schedule, steps


@given(walks())
def test_both_sides_walk_alike(walk):
    made, steps = walk
    other = Schedule(
        prompt_tokens=made.prompt_tokens,
        max_positions=made.max_positions,
        cached=made.cached,
        rolls_back=made.rolls_back,
    )
    decodes = 0
    for step in steps:
        assert PRICES.compute_units(step) <= PRICES.compute_dearest(other)
        # The header says no more than number, position and tokens.
        assert other.check(step.position, step.tokens) == step
        other = other.advance(step)
        decodes = decodes + 1 if not step.is_prefill else 0
        assert step.closes_range == (step.is_prefill or decodes == RANGE_STEPS)
        decodes %= RANGE_STEPS
    assert other == made


@given(walks(), st.integers(0, 500), st.integers(0, 500))
def test_hostile_headers(walk, position, tokens):
    schedule, _ = walk
    prompt, end = schedule.prompt_tokens, schedule.end
    if not is_allowed(schedule, position, tokens):
        return
    assert position + tokens <= schedule.max_positions
    if position < prompt:
        # Full prefill steps only, but for the first one of a replacement, which ends
        # at a page; the dearest of both prices is due for each.
        full = min(PREFILL_TOKENS, prompt - position)
        may_be_short = schedule.is_fresh and tokens % PAGE_TOKENS == 0
        assert tokens == full or (may_be_short and 0 < tokens < full)
        is_fresh = end == 0
        assert position == end or (is_fresh and position % PAGE_TOKENS == 0)
        assert position <= max(schedule.cached, end)
    else:
        # The prompt is there, and stays.
        assert end >= prompt
        assert 1 <= tokens <= MAX_DECODE_TOKENS
        assert position == end or (schedule.rolls_back and position < end)


@pytest.mark.parametrize(
    ("position", "tokens"),
    [(9, 1), (51, 1), (45, 0), (50, 17), (-1, 1), (0, 10), (40, 50), (50, 2**31)],
)
def test_steps_that_never_come(position, tokens):
    schedule = Schedule(prompt_tokens=10, max_positions=90, number=9, end=50)
    assert is_allowed(schedule, 50, 16)
    assert is_allowed(schedule, 10, 16)
    assert not is_allowed(schedule, position, tokens)
    stiff = Schedule(
        prompt_tokens=10, max_positions=90, number=9, end=50, rolls_back=False
    )
    assert not is_allowed(stiff, 49, 1)


def test_a_replacement_gets_as_far_as_the_others_are():
    schedule = Schedule(prompt_tokens=500, max_positions=600, cached=64)
    for start, until, sizes in (
        (0, 304, [48, 128, 128]),
        (64, 304, [112, 128]),
        (48, 176, [128]),
        (0, 500, [128, 128, 128, 116]),
    ):
        position, found, current = start, [], schedule
        while position < until:
            step = current.propose_replay(position, until)
            assert step == current.check(step.position, step.tokens)
            current, position = current.advance(step), step.end
            found.append(step.tokens)
        assert found == sizes
        # Later steps are full, whatever a header says.
        assert is_allowed(current, position, 16) == (until == 500)
    assert not any(is_allowed(schedule, 0, tokens) for tokens in (0, 1, 15, 17, 144))


def test_a_text_is_one_step():
    schedule = Schedule(prompt_tokens=1000, max_positions=1000)
    assert not any(is_allowed(schedule, 0, tokens) for tokens in (16, 128, 999))
    step = schedule.check(0, 1000)
    assert (step.is_prefill, step.closes_range, step.output_tokens) == (True, True, 0)
    schedule = schedule.advance(step)
    assert not any(is_allowed(schedule, p, n) for p in (0, 999, 1000) for n in (1, 999))


@given(walks(), st.data())
def test_an_attempt_goes_on_where_it_is_told(walk, data):
    schedule, _ = walk
    position = data.draw(st.integers(0, min(schedule.end, schedule.max_positions - 1)))
    resumed = schedule.resume(max(schedule.prompt_tokens, position), position)
    step = resumed.propose()
    assert (step.number, step.position) == (0, position)
    assert step.is_prefill == (position < schedule.prompt_tokens)
    if position:
        assert not is_allowed(resumed, position - 1, 1)


def test_an_attempt_that_would_go_on_at_the_end_has_no_step():
    schedule = Schedule(prompt_tokens=10, max_positions=30, number=9, end=30)
    resumed = schedule.resume(30, 30)
    assert not any(is_allowed(resumed, p, n) for p in (0, 29, 30) for n in (1, 30))


def test_a_guess_costs_a_prefill_of_it():
    schedule = Schedule(prompt_tokens=10, max_positions=90, number=1, end=10)
    prices = [PRICES.compute_units(schedule.propose(tokens=n)) for n in (1, 2, 16)]
    assert prices == [-(-3 * (20 + 5 * k) // 7) for k in (0, 1, 15)]

"""Guesses that pay, and what they may cost: drafts and pace, without a model."""

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.sampling.drafts import (
    LONGEST_MATCH,
    SHORTEST_MATCH,
    FirstDrafter,
    NgramDrafter,
)
from inference.sampling.speculation import (
    FIRST_TURNS,
    FREE_GUESSES,
    MAX_GUESSES,
    Pace,
    Speculation,
)

# Drafts


def draft_slowly(tokens, count):
    """Return what the drafter should guess: the obvious search."""
    for length in range(min(LONGEST_MATCH, len(tokens)), SHORTEST_MATCH - 1, -1):
        tail = tokens[-length:]
        for place in range(len(tokens) - 1, length - 1, -1):
            if tokens[place - length : place] == tail:
                longer = list(tokens)
                for index in range(count):
                    longer.append(longer[place + index])
                return longer[len(tokens) :]
    return []


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 40), st.integers(0, 20))
def test_drafts_are_what_followed_the_longest_match(tokens, cut, count):
    drafter = NgramDrafter(tokens[:cut])
    drafter.push(tokens[cut:])
    assert drafter.draft(count) == draft_slowly(tokens, count)


def test_a_line_of_dashes_goes_on():
    assert NgramDrafter([7, 8, 8, 8]).draft(5) == [8] * 5
    assert NgramDrafter([1, 2, 3, 1, 2, 3, 1, 2]).draft(5) == [3, 1, 2, 3, 1]
    assert NgramDrafter([1, 2, 3]).draft(5) == []


def test_the_second_is_asked_where_the_first_has_no_idea():
    both = FirstDrafter(NgramDrafter([1, 2]), NgramDrafter([5, 6, 9, 5]))
    both.push([6])
    assert both.draft(2) == [9, 5]
    # A single guess is not worth asking the second.
    assert both.draft(1) == []
    both.push([1, 2])
    assert both.draft(1) == [6]


# Pace


class Link:
    """Turns of a session whose guesses are right by chance."""

    def __init__(self, pace, share, plain_us, slope_us, seed=0, noise=0.0):
        self.pace = pace
        self.share = share
        self.plain_us = plain_us
        self.slope_us = slope_us
        self.noise = noise
        self.luck = Random(seed)
        self.spent_us = self.tokens = 0

    def run(self, tokens):
        while self.tokens < tokens:
            self.turn()
        return self

    def turn(self):
        pace = self.pace
        wanted = pace.count_wanted()
        drafts = tuple(range(wanted))
        sent = len(pace.take(drafts, 100))
        right = 0
        while right < sent and self.luck.random() < self.share:
            right += 1
        # The first guess is also right or wrong when it is not sent.
        hit = 0 if self.luck.random() < self.share else -1
        tokens = tuple(range(right + 1)) if sent else (hit,)
        took = self.plain_us + sent * self.slope_us
        took = int(took * (1 + self.noise * self.luck.uniform(-1, 1)))
        pace.note_turn(sent, tokens, took)
        self.spent_us += took
        self.tokens += len(tokens)

    @property
    def speed(self):
        """How much faster it is than without guesses."""
        return self.tokens * self.plain_us / self.spent_us


def build_pace(mode=Speculation.AUTO, input_price=1, output_price=4):
    return Pace(mode, input_price, output_price)


@pytest.mark.parametrize("seed", range(5))
def test_where_answers_repeat_it_pays(seed):
    link = Link(build_pace(), 0.9, 110_000, 500, seed).run(200)
    assert link.speed > 2.5


@given(
    st.floats(0, 1), st.floats(0, 2), st.floats(0, 0.3), st.integers(0, 1000),
    st.integers(64, 400),
)  # fmt: skip
@example(0.875, 1.0, 0.25, 64, 64)
def test_it_never_costs_much(share, slope, noise, seed, tokens):
    link = Link(build_pace(), share, 10_000, int(10_000 * slope), seed, noise)
    link.run(tokens)
    assert link.speed > 0.95 - noise / 6
    assert count_cost(link) <= link.tokens * 4 + FREE_GUESSES


def count_cost(link):
    """Return what the turns cost in all: an output each, an input for each guess."""
    pace = link.pace
    visits = link.tokens - pace.right
    return visits * pace.output_price + pace.guesses * pace.input_price


@given(
    st.sampled_from([Speculation.NGRAM, Speculation.DRAFT]), st.floats(0, 1),
    st.integers(0, 20), st.integers(0, 20), st.integers(0, 99),
)  # fmt: skip
def test_guesses_by_name_cost_no_more_money(mode, share, input_price, output, seed):
    pace = build_pace(mode, input_price, output)
    link = Link(pace, share, 10_000, 100, seed).run(100)
    free = FREE_GUESSES * input_price
    assert count_cost(link) <= link.tokens * output + free
    assert 0 <= pace.right <= pace.guesses
    if input_price:
        assert pace.guesses >= min(FREE_GUESSES, 20) or share > 0


def test_by_name_it_begins_at_once_and_grows():
    link = Link(build_pace(Speculation.NGRAM), 1.0, 1, 0)
    sent = []
    for _ in range(5):
        before = link.pace.guesses
        link.turn()
        sent.append(link.pace.guesses - before)
    assert sent == [2, 4, 8, MAX_GUESSES, MAX_GUESSES]
    link.share = 0.0
    for _ in range(2):
        before = link.pace.guesses
        link.turn()
    assert link.pace.guesses - before == 1


def test_unasked_nothing_is_sent_before_a_turn_is_known():
    pace = build_pace()
    for _ in range(FIRST_TURNS):
        assert pace.take((1, 2, 3), 9) == ()
        pace.note_turn(0, (1,), 1000)
    # Those that were not sent were right.
    assert pace.take((1, 2, 3), 9) == (1, 2)
    assert pace.take((1, 2, 3), 1) == (1,)
    assert pace.take((1, 2, 3), 0) == ()


def test_off_is_off():
    pace = build_pace(Speculation.OFF)
    assert (pace.count_wanted(), pace.take((1,), 9)) == (0, ())
    pace.note_turn(0, (1,), 5)
    assert pace.guesses == 0

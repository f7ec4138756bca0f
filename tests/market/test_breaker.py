"""Who failed is left alone, then probed, and never banned."""

from hypothesis import given
from hypothesis import strategies as st

from market.breaker import (
    FIRST_PAUSE_US,
    LONGEST_PAUSE_US,
    MAX_NAMES,
    TRIAL_US,
    Breaker,
    Circuit,
)

A, B = b"a", b"b"


def test_failure_pause_probe_success():
    breaker = Breaker()
    assert breaker.may_use(A, 0)
    breaker.fail(A, 5)
    assert breaker.get_circuit(A, 6) is Circuit.EXCLUDED
    assert not breaker.may_use(A, 4 + FIRST_PAUSE_US)
    assert breaker.may_use(B, 6)
    now = 5 + FIRST_PAUSE_US
    assert breaker.get_circuit(A, now) is Circuit.PROBING
    assert breaker.may_use(A, now)
    breaker.begin(A, now)
    # One at a time.
    assert not breaker.may_use(A, now + 1)
    assert breaker.may_use(A, now + TRIAL_US)
    breaker.succeed(A)
    assert breaker.get_circuit(A, now + 1) is Circuit.ACTIVE


def test_a_probe_that_fails_doubles_the_pause():
    breaker, now = Breaker(), 0
    pause = FIRST_PAUSE_US
    for _ in range(20):
        breaker.fail(A, now)
        # The others that were under way when it failed.
        breaker.fail(A, now + 1)
        assert not breaker.may_use(A, now + pause - 1)
        assert breaker.may_use(A, now + pause)
        now += pause
        pause = min(2 * pause, LONGEST_PAUSE_US)


@given(st.lists(st.tuples(st.sampled_from("fbs"), st.integers(0, 10**9))))
def test_everybody_is_tried_again(events):
    breaker, now = Breaker(), 0
    for kind, wait in events:
        now += wait
        match kind:
            case "f":
                breaker.fail(A, now)
            case "b":
                breaker.begin(A, now)
            case _:
                breaker.succeed(A)
                assert breaker.may_use(A, now)
    assert breaker.may_use(A, now + LONGEST_PAUSE_US + TRIAL_US)
    assert breaker.may_use(B, now)


def test_it_does_not_grow_without_end():
    breaker = Breaker()
    for number in range(MAX_NAMES + 5):
        breaker.fail(number.to_bytes(4, "big"), 1)
    assert len(breaker._failures) == MAX_NAMES
    assert breaker.may_use(bytes(4), 2)

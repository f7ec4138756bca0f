"""Who waits for whom before a pass, and for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.companions import WAIT_SHARE, Companions

PASS_S = 0.020
WAIT_S = WAIT_SHARE * PASS_S


def share_a_pass(companions: Companions, *names: bytes) -> None:
    """Let sessions ask at time 0 and be answered by one pass."""
    for call, name in enumerate(names):
        companions.on_request(call, name, 0.0)
    companions.on_pass(range(len(names)), PASS_S)


def test_a_lone_session_waits_for_nobody() -> None:
    companions = Companions()
    assert companions.compute_wait_s(0.0) == 0
    for _ in range(2):
        companions.on_request(0, b"a", 1.0)
        assert companions.compute_wait_s(1.0) == 0
        companions.on_pass([0], PASS_S)


def test_companions_wait_until_all_are_here() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b", b"c")
    companions.on_request(10, b"a", 1.0)
    assert companions.compute_wait_s(1.0) == pytest.approx(WAIT_S)
    companions.on_request(11, b"b", 1.001)
    # From when the oldest came, however many come after it.
    assert companions.compute_wait_s(1.001) == pytest.approx(WAIT_S - 0.001)
    companions.on_request(12, b"c", 1.002)
    assert companions.compute_wait_s(1.002) == 0


def test_the_wait_is_over() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b")
    companions.on_request(10, b"a", 1.0)
    assert companions.compute_wait_s(1.0 + 2 * WAIT_S) == 0


def test_who_was_late_is_not_waited_for_again() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b", b"c")
    for call, name in ((10, b"a"), (11, b"b")):
        companions.on_request(call, name, 1.0)
    companions.on_pass([10, 11], PASS_S)
    companions.on_request(12, b"c", 1.0)
    # c shared its last pass with those who have gone on without it.
    assert companions.compute_wait_s(1.0) == 0
    companions.on_pass([12], PASS_S)
    companions.on_request(13, b"a", 2.0)
    companions.on_request(14, b"b", 2.0)
    assert companions.compute_wait_s(2.0) == 0


def test_nobody_waits_for_who_has_ended() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b")
    companions.on_request(10, b"a", 1.0)
    companions.forget(b"b")
    assert companions.compute_wait_s(1.0) == 0


def test_nobody_waits_for_who_was_refused() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b")
    companions.on_request(10, b"b", 1.0)
    companions.drop(10)
    companions.on_request(11, b"a", 1.0)
    assert companions.compute_wait_s(1.0) == 0


def test_who_ends_while_it_waits_holds_nobody() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b")
    companions.on_request(10, b"a", 1.0)
    companions.forget(b"a")
    assert companions.compute_wait_s(1.0) == 0
    companions.on_request(11, b"b", 1.0)
    assert companions.compute_wait_s(1.0) == 0


def test_nobody_waits_beside_a_prompt() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b")
    companions.on_request(10, b"a", 1.0)
    companions.on_request(11, b"p", 1.0, waits=False)
    assert companions.compute_wait_s(1.0) == 0


def test_nobody_waits_for_the_next_chunk_of_a_prompt() -> None:
    companions = Companions()
    companions.on_request(0, b"p", 0.0, waits=False)
    companions.on_request(1, b"a", 0.0)
    companions.on_pass([0, 1], 100 * PASS_S)
    companions.on_request(2, b"a", 1.0)
    assert companions.compute_wait_s(1.0) == 0


def test_a_chunk_makes_no_wait_of_steps_longer() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b")
    for call, name in enumerate((b"a", b"b")):
        companions.on_request(10 + call, name, 1.0)
    companions.on_request(12, b"p", 1.0, waits=False)
    companions.on_pass([10, 11, 12], 100 * PASS_S)
    companions.on_request(20, b"a", 4.0)
    assert companions.compute_wait_s(4.0) == pytest.approx(WAIT_S)


def test_groups_that_wait_for_one_pass_join() -> None:
    companions = Companions()
    share_a_pass(companions, b"a", b"b")
    share_a_pass(companions, b"c")
    for call, name in enumerate((b"a", b"b", b"c")):
        companions.on_request(10 + call, name, 1.0)
    assert companions.compute_wait_s(1.0) == 0
    companions.on_pass([10, 11, 12], PASS_S)
    companions.on_request(20, b"c", 2.0)
    assert companions.compute_wait_s(2.0) == pytest.approx(WAIT_S)


def test_a_call_that_was_not_told_of_changes_nothing() -> None:
    companions = Companions()
    companions.on_pass([99], PASS_S)
    companions.drop(98)
    companions.forget(b"nobody")
    assert companions.compute_wait_s(0.0) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "pass", "forget"]), st.integers(0, 4)),
        max_size=40,
    )
)
def test_no_wait_is_longer_than_a_share_of_the_longest_pass(
    events: list[tuple[str, int]],
) -> None:
    companions = Companions()
    waiting: dict[int, bytes] = {}
    for now, (kind, number) in enumerate(events):
        name = bytes([number])
        if kind == "ask":
            companions.on_request(now, name, now * PASS_S)
            waiting[now] = name
        elif kind == "pass":
            companions.on_pass(list(waiting), PASS_S)
            waiting.clear()
        else:
            companions.forget(name)
            waiting = {c: each for c, each in waiting.items() if each != name}
        wait_s = companions.compute_wait_s(now * PASS_S)
        assert 0 <= wait_s < WAIT_S + 1e-9
        assert waiting or wait_s == 0

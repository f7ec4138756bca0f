"""The inbox of a session's driver: order, deadlines, ends."""

import pytest
import trio
from session_world import open_pair, run
from trio.testing import MockClock

from inference.hop.inbox import MAX_IN_A_ROW, OVERDUE_S, Heard, Inbox

LATE_S = 1000.0


def open_inbox(nursery: trio.Nursery) -> Inbox[int, str]:
    inbox: Inbox[int, str] = Inbox()
    nursery.start_soon(inbox.run_alarm)
    return inbox


def test_sources_take_turns_in_the_order_in_which_they_spoke():
    async def test():
        async with trio.open_nursery() as nursery:
            inbox = open_inbox(nursery)
            ends = {name: open_pair(b"us", name.encode()) for name in "ab"}
            for name, (_, theirs) in ends.items():
                inbox.listen(name, theirs)
            for name in "bab":
                assert ends[name][0].send_now(name.encode())
            inbox.post(7)
            heard = [await inbox.receive(LATE_S) for _ in range(4)]
            names = [h.source.key if isinstance(h, Heard) else h for h in heard]
            assert names == ["b", "a", 7, "b"]
            assert await inbox.receive(trio.current_time()) is None
            nursery.cancel_scope.cancel()

    run(test)


def test_a_first_frame_comes_first_and_the_end_last():
    async def test():
        async with trio.open_nursery() as nursery:
            inbox = open_inbox(nursery)
            ours, theirs = open_pair(b"us", b"them")
            ours.send_now(b"second")
            source = inbox.listen("x", theirs, b"first")
            frames = [(await inbox.receive(LATE_S)).frame for _ in range(2)]
            assert frames == [b"first", b"second"]
            assert not source.gone.is_set()
            ours.abort()
            assert (await inbox.receive(LATE_S)).error is not None
            assert source.gone.is_set()
            nursery.cancel_scope.cancel()

    run(test)


def test_a_deadline_strikes_when_it_is_due_and_not_when_it_was():
    async def test():
        async with trio.open_nursery() as nursery:
            inbox = open_inbox(nursery)
            await trio.testing.wait_all_tasks_blocked()
            started = trio.current_time()
            # Later, earlier and later again: only the one in force counts.
            for due_s in (5.0, 2.0, 9.0):
                assert await inbox.receive(started + due_s) is None
                assert trio.current_time() - started == pytest.approx(max(due_s, 5.0))
            nursery.cancel_scope.cancel()

    run(test)


def test_what_is_forgotten_or_closed_is_not_heard():
    async def test():
        async with trio.open_nursery() as nursery:
            inbox = open_inbox(nursery)
            ours, theirs = open_pair(b"us", b"them")
            source = inbox.listen("x", theirs)
            ours.send_now(b"too late")
            inbox.forget(theirs)
            assert source.gone.is_set()
            assert await inbox.receive(trio.current_time() + 1) is None
            inbox.close()
            inbox.post(1)
            assert inbox.is_empty
            assert inbox.listen("x", theirs).gone.is_set()
            nursery.cancel_scope.cancel()

    run(test)


def test_a_talker_lets_others_run():
    async def test():
        async with trio.open_nursery() as nursery:
            inbox = open_inbox(nursery)
            turns = []

            async def other() -> None:
                turns.append(True)

            for number in range(3 * MAX_IN_A_ROW):
                inbox.post(number)
            nursery.start_soon(other)
            taken = [await inbox.receive(LATE_S) for _ in range(3 * MAX_IN_A_ROW)]
            assert taken == list(range(3 * MAX_IN_A_ROW))
            assert turns
            nursery.cancel_scope.cancel()

    run(test)


class Chatterbox:
    """A stream that always has another frame, a millisecond later."""

    peer_id = b"them"

    def __init__(self, clock):
        self.clock = clock

    def watch(self, on_news):
        on_news()

    def receive_now(self):
        self.clock.jump(0.001)
        return b"talk"


def test_a_deadline_strikes_though_the_line_is_never_empty():
    clock = MockClock()

    async def main():
        inbox: Inbox[int, str] = Inbox()
        inbox.listen("x", Chatterbox(clock))
        while await inbox.receive(1.0) is not None:
            pass
        return trio.current_time()

    assert 1.0 <= trio.run(main, clock=clock) < 1.1 + OVERDUE_S

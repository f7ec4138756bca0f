"""
Several answers to one request: sessions side by side, their events in one line.

Each answer is a session of its own with its own seed; the events of all come in the
order in which they happen.  An error of one ends them all, as it would the only one.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from p2pchain.api.completion import CompletionEvent, Delta, Finished, Started
from p2pchain.api.errors import StageLost
from p2pchain.api.openai.answers import Choice

Merged = AsyncGenerator[tuple["Answer", Delta | Finished], None]


class Answer:
    """One answer on its way."""

    def __init__(self, index: int, events: AsyncIterator[CompletionEvent]) -> None:
        self.index = index
        self.events = events
        self._session = b""
        self._deltas: list[Delta] = []

    async def start(self) -> Started:
        """Wait for the first event.

        Raises:
            StageLost: It is another one.
        """
        started = await anext(self.events, None)
        if not isinstance(started, Started):
            raise StageLost("the session ended before it started")
        self._session = started.session
        return started

    async def next(self) -> Delta | Finished:
        """Wait for the next event.

        Raises:
            StageLost: There is none, or one that has no place there.
        """
        event = await anext(self.events, None)
        if isinstance(event, Started):
            raise StageLost("the session started twice")
        if event is None:
            raise StageLost("the session ended without its last event")
        return event

    def keep(self, delta: Delta) -> None:
        """Note a part of the answer."""
        self._deltas.append(delta)

    def build_choice(self, finished: Finished, *, keeps_tokens: bool) -> Choice:
        """Return the whole answer, with its parts or without."""
        return Choice(
            session=self._session,
            text="".join(delta.text for delta in self._deltas),
            tokens=tuple(self._deltas) if keeps_tokens else (),
            finished=finished,
        )


async def start(answers: Sequence[Answer]) -> Started:
    """Wait until all answers have begun; returns the first one's route."""
    starts = [await answer.start() for answer in answers]
    return starts[0]


async def collect(answers: Sequence[Answer]) -> list[Choice]:
    """Return all answers when they are complete."""
    ends: dict[int, Finished] = {}
    async for answer, event in merge(answers):
        if isinstance(event, Finished):
            ends[answer.index] = event
        else:
            answer.keep(event)
    return [a.build_choice(ends[a.index], keeps_tokens=True) for a in answers]


async def merge(answers: Sequence[Answer]) -> Merged:
    """Yield the events of all answers as they come, until all are finished."""
    waiting = {asyncio.ensure_future(each.next()): each for each in answers}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                answer = waiting.pop(task)
                event = task.result()
                yield answer, event
                if not isinstance(event, Finished):
                    waiting[asyncio.ensure_future(answer.next())] = answer
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

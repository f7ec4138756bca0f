"""
The one place where asyncio meets trio.

    asyncio thread (aiohttp)                     trio thread (the node)
      await bridge.call(fn, *args)   --start-->    await fn(*args)
            result or exception      <--post---
      async with bridge.stream(fn, *args) as items:
          async for item in items    <--post---    async for item in fn(*args)
                                     --credit-->   (at most STREAM_BOUND ahead)
      cancelled: the client left     --cancel-->   the task is cancelled
            waits until it has ended <--post---

aiohttp needs asyncio, the node runs on trio.  aiohttp therefore has a thread of its own
and requests cross here, whole: what runs on the trio side is an ordinary task of the
service's nursery, so cancelling, errors and clean-up work as everywhere in the node.
Both directions use the loops' own thread-safe doors (`run_sync_soon`,
`call_soon_threadsafe`) and neither side ever blocks on the other.

A cancelled asyncio caller waits for its trio task to end before it goes on: the task's
clean-up (paying the last step of a session) has then happened.

Why a thread and not trio's guest mode: docs/adr/0001-http-bridge.md
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

import trio

from p2pchain.api.errors import BridgeClosed

T = TypeVar("T")

_log = logging.getLogger(__name__)

STREAM_BOUND = 64
"""Items a stream may run ahead of its reader: a few seconds of tokens.  A reader that
stops reading so stops the session instead of filling memory."""

_END = object()


class Bridge:
    """Runs async functions of the trio side for callers on the asyncio side."""

    def __init__(self, nursery: trio.Nursery) -> None:
        """Make a bridge into `nursery`; call it on the trio thread."""
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()

    async def call(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `async_fn(*args)` on the trio side; return its result or raise its error.

        Raises:
            BridgeClosed: The trio side is gone or was cancelled meanwhile.
        """
        crossing = _Crossing()
        self._start(crossing, _run_call, crossing, async_fn, args)
        try:
            result: T = await crossing.next_item()
        except asyncio.CancelledError:
            await self._cancel(crossing)
            raise
        return result

    @asynccontextmanager
    async def stream(
        self, generator_fn: Callable[..., AsyncGenerator[T, None]], *args: Any
    ) -> AsyncIterator[AsyncIterator[T]]:
        """Run `generator_fn(*args)` on the trio side and iterate over its items here.

        Leaving the block before the end closes the generator and waits for that.

        Raises:
            BridgeClosed: The trio side is gone or was cancelled meanwhile.
        """
        crossing = _Crossing()
        self._start(crossing, _run_stream, crossing, generator_fn, args)
        try:
            yield self._iterate(crossing)
        finally:
            await self._cancel(crossing)

    async def _iterate(self, crossing: "_Crossing") -> AsyncIterator[Any]:
        while (item := await crossing.next_item()) is not _END:
            yield item
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(crossing.credits.release)

    def _start(self, crossing: "_Crossing", async_fn: Any, *args: Any) -> None:
        def start() -> None:
            try:
                self._nursery.start_soon(async_fn, *args)
            except RuntimeError:  # the nursery is closed
                crossing.post_error(BridgeClosed("the node is shutting down"))
                crossing.post_ended()

        try:
            self._token.run_sync_soon(start)
        except trio.RunFinishedError:
            raise BridgeClosed("the node has stopped") from None

    async def _cancel(self, crossing: "_Crossing") -> None:
        """Cancel the trio task and wait for its end, even if cancelled again."""
        if not crossing.ended.is_set():
            try:
                self._token.run_sync_soon(crossing.scope.cancel)
            except trio.RunFinishedError:
                return
        waiting = asyncio.ensure_future(crossing.ended.wait())
        cancelled = False
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError


class _Crossing:
    """One request on both sides: made on the asyncio side, run on the trio side."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()
        self.ended = asyncio.Event()
        """Set when the trio task has ended, clean-up and all."""
        self.scope = trio.CancelScope()
        self.credits = trio.Semaphore(STREAM_BOUND)
        """Items that may still be sent; the queue above stays under STREAM_BOUND."""

    async def next_item(self) -> Any:
        """Return the next item that the trio side posted, or raise its error."""
        item, error = await self._items.get()
        if error is not None:
            raise error
        return item

    def post(self, item: Any) -> None:
        """Send an item over, from the trio side."""
        self._soon(self._items.put_nowait, (item, None))

    def post_error(self, error: BaseException) -> None:
        """Send an error over, from the trio side."""
        self._soon(self._items.put_nowait, (None, error))

    def post_ended(self) -> None:
        """Say that the trio task has ended."""
        self._soon(self.ended.set)

    def _soon(self, callback: Callable[..., Any], *args: Any) -> None:
        # The loop may be gone when the server thread died; nobody waits then.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)


async def _run_call(crossing: _Crossing, async_fn: Any, args: tuple[Any, ...]) -> None:
    async def work() -> None:
        crossing.post(await async_fn(*args))

    await _run(crossing, work)


async def _run_stream(crossing: _Crossing, fn: Any, args: tuple[Any, ...]) -> None:
    async def work() -> None:
        async with aclosing(fn(*args)) as items:
            async for item in items:
                await crossing.credits.acquire()
                crossing.post(item)
        crossing.post(_END)

    await _run(crossing, work)


async def _run(crossing: _Crossing, work: Callable[[], Awaitable[None]]) -> None:
    try:
        with crossing.scope:
            await work()
    except Exception as error:
        if crossing.scope.cancel_called:  # the caller left and will not see it
            _log.warning("cleaning up after a request failed: %r", error)
        crossing.post_error(error)
    except BaseException:
        # Cancelled from the trio side, not by our caller, who must not wait for ever.
        crossing.post_error(BridgeClosed("the node is shutting down"))
        raise
    finally:
        crossing.post_ended()

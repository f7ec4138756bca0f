"""The bridge between asyncio and trio, and the server that stands on it."""

import asyncio
import socket
import threading
import urllib.error
import urllib.request

import pytest
import trio
import trio.testing
from aiohttp import web

from p2pchain.api.bridge import STREAM_BOUND, Bridge
from p2pchain.api.errors import BindFailed, BridgeClosed
from p2pchain.api.http_service import serve_http
from p2pchain.errors import PortInUse

HOST = "127.0.0.1"


def run_both(asyncio_side):
    """Run `asyncio_side(bridge)` on an asyncio thread beside a trio nursery."""

    async def main():
        async with trio.open_nursery() as nursery:
            bridge = Bridge(nursery)
            result = await trio.to_thread.run_sync(
                lambda: asyncio.run(asyncio_side(bridge))
            )
            nursery.cancel_scope.cancel()
            return result

    return trio.run(main)


def test_call_gives_the_result_of_the_trio_side():
    async def add(a, b):
        await trio.lowlevel.checkpoint()
        return a + b, threading.current_thread() is threading.main_thread()

    async def side(bridge):
        return await bridge.call(add, 2, 3)

    assert run_both(side) == (5, True)


def test_call_raises_the_error_of_the_trio_side():
    async def fail():
        await trio.lowlevel.checkpoint()
        raise KeyError("gone")

    async def side(bridge):
        with pytest.raises(KeyError, match="gone"):
            await bridge.call(fail)
        return True

    assert run_both(side)


def test_many_calls_at_once_keep_apart():
    async def double(x):
        await trio.lowlevel.checkpoint()
        return 2 * x

    async def side(bridge):
        return await asyncio.gather(*(bridge.call(double, i) for i in range(200)))

    assert run_both(side) == [2 * i for i in range(200)]


def test_cancelling_the_caller_cancels_the_task_and_waits_for_its_clean_up():
    log = []

    async def work(started):
        try:
            started()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            log.append("cleaned")

    async def side(bridge):
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        task = asyncio.create_task(
            bridge.call(work, lambda: loop.call_soon_threadsafe(event.set))
        )
        await event.wait()
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return list(log)

    assert run_both(side) == ["cleaned"]


def test_a_cancelled_trio_side_frees_the_caller():
    async def main():
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as inner:
                bridge = Bridge(inner)

                async def side():
                    with pytest.raises(BridgeClosed):
                        await bridge.call(trio.sleep_forever)
                    with pytest.raises(BridgeClosed):
                        await bridge.call(trio.sleep, 0)  # the nursery is closed
                    return True

                outer.start_soon(
                    trio.to_thread.run_sync, lambda: results.append(asyncio.run(side()))
                )
                await trio.testing.wait_all_tasks_blocked(0.01)
                while not inner.child_tasks:
                    await trio.sleep(0.001)
                inner.cancel_scope.cancel()

    results = []
    trio.run(main)
    assert results == [True]


def test_a_finished_trio_run_is_a_typed_error():
    async def make():
        async with trio.open_nursery() as nursery:
            return Bridge(nursery)

    bridge = trio.run(make)
    with pytest.raises(BridgeClosed):
        asyncio.run(bridge.call(trio.sleep, 0))


def test_stream_gives_every_item_in_order():
    async def count(n):
        for i in range(n):
            yield i

    async def side(bridge):
        async with bridge.stream(count, 500) as items:
            return [item async for item in items]

    assert run_both(side) == list(range(500))


def test_stream_raises_after_the_items_that_came():
    async def count():
        yield 1
        raise ValueError("lost")

    async def side(bridge):
        got = []

        async def read():
            async with bridge.stream(count) as items:
                async for item in items:
                    got.append(item)

        with pytest.raises(ValueError, match="lost"):
            await read()
        return got

    assert run_both(side) == [1]


def test_stream_stays_within_its_bound_and_closes_when_left():
    log = []

    async def endless():
        try:
            while True:
                log.append("item")
                yield len(log)
        finally:
            log.append("closed")

    async def side(bridge):
        async with bridge.stream(endless) as items:
            await anext(items)
            await bridge.call(trio.testing.wait_all_tasks_blocked)
            ahead = len(log)
        return ahead, log[-1]

    ahead, last = run_both(side)
    # One item was read, one may wait for a credit.
    assert STREAM_BOUND <= ahead <= STREAM_BOUND + 2
    assert last == "closed"


# -- the service ---------------------------------------------------------------------


def app_with(handler):
    """Return a factory of an application with `handler(request, bridge)` at /."""

    def build(bridge):
        async def handle(request):
            return await handler(request, bridge)

        app = web.Application()
        app.router.add_get("/", handle)
        return app

    return build


def fetch(port):
    with urllib.request.urlopen(f"http://{HOST}:{port}/") as response:
        return response.read().decode()


async def hello(request, bridge):
    await bridge.call(trio.sleep, 0)
    return web.Response(text="hello")


def test_port_zero_is_served_and_released():
    async def main():
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_http, app_with(hello), HOST, 0)
            text = await trio.to_thread.run_sync(fetch, port)
            nursery.cancel_scope.cancel()
        return port, text

    port, text = trio.run(main)
    assert text == "hello"
    with pytest.raises(urllib.error.URLError):
        fetch(port)


def test_a_taken_port_names_the_setting():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"{port} is in use.*--rpc-port") as caught:
            trio.run(serve_http, app_with(hello), HOST, port)
    assert caught.value.address == f"{HOST}:{port}"


@pytest.mark.parametrize(
    ("host", "port"), [("192.0.2.1", 0), (HOST, 70_000), ("not a host", 0)]
)
def test_an_address_that_is_not_ours_is_a_typed_error(host, port):
    with pytest.raises(BindFailed):
        trio.run(serve_http, app_with(hello), host, port)


def test_an_application_that_cannot_be_built_raises():
    def build(bridge):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        trio.run(serve_http, build, HOST, 0)


def test_draining_lets_a_running_request_end():
    async def main():
        release, entered = trio.Event(), trio.Event()

        async def work():
            entered.set()
            await release.wait()
            return "finished"

        async def handler(request, bridge):
            return web.Response(text=await bridge.call(work))

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                port = await nursery.start(serve_http, app_with(handler), HOST, 0)

                async def client():
                    results.append(await trio.to_thread.run_sync(fetch, port))

                outer.start_soon(client)
                await entered.wait()
                nursery.cancel_scope.cancel()
                release.set()

    results = []
    trio.run(main)
    assert results == ["finished"]


def test_a_request_that_outlasts_the_grace_is_cut_off():
    async def main():
        entered = trio.Event()
        log = []

        async def work():
            try:
                entered.set()
                await trio.sleep_forever()
            finally:
                log.append("cleaned")

        async def handler(request, bridge):
            await bridge.call(work)

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:

                async def serve(task_status):
                    await serve_http(
                        app_with(handler), HOST, 0, grace_s=0, task_status=task_status
                    )

                port = await nursery.start(serve)

                async def client():
                    with pytest.raises((urllib.error.URLError, ConnectionError)):
                        await trio.to_thread.run_sync(fetch, port)
                    log.append("refused")

                outer.start_soon(client)
                await entered.wait()
                nursery.cancel_scope.cancel()
        return log

    assert sorted(trio.run(main)) == ["cleaned", "refused"]


def test_a_client_that_leaves_cancels_its_task():
    async def main():
        entered, left = trio.Event(), trio.Event()

        async def work():
            try:
                entered.set()
                await trio.sleep_forever()
            finally:
                left.set()

        async def handler(request, bridge):
            await bridge.call(work)

        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_http, app_with(handler), HOST, 0)
            stream = await trio.open_tcp_stream(HOST, port)
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await entered.wait()
            await stream.aclose()
            with trio.fail_after(120):
                await left.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)

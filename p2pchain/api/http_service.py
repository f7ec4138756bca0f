"""
aiohttp as a trio service.

`serve_http` runs until cancelled.  Its aiohttp lives in a thread with an asyncio loop
of its own; requests come back to the trio thread over the bridge.

    running --cancelled--> draining: no new connections; requests in work have `grace_s`
                           to end, then are cancelled on both sides --> returned

The tasks of requests are shielded while draining.  What they use of the node must
therefore outlive this service: cancel it first and wait for it.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio
from aiohttp import web

from p2pchain.api.bridge import Bridge
from p2pchain.api.errors import BindFailed
from p2pchain.errors import PortInUse

PORT_SETTING = "--rpc-port or rpc_port in config.toml"
DRAIN_GRACE_S = 5.0
"""An answer that needs longer than this to end is cut off when the node stops."""
KEEPALIVE_S = 75.0
"""Idle connections are kept as long as browsers keep theirs."""
LINGER_S = 1.0
"""How long the rest of a refused body is read, so that the sender sees the refusal."""
MAX_HEADER_BYTES = 16_384
"""One header line; ours are far smaller, and this is read before any check."""


async def serve_http(
    app_factory: Callable[[Bridge], web.Application],
    host: str,
    port: int,
    *,
    grace_s: float = DRAIN_GRACE_S,
    setting: str = PORT_SETTING,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP until cancelled, then drain.

    Args:
        app_factory: Builds the application on the asyncio thread.
        host: Address to listen on.
        port: 0 lets the system choose.
        grace_s: Seconds that requests in work have after the cancellation.
        setting: What a person changes when the port is taken.
        task_status: Told the port when connections are accepted.

    Raises:
        PortInUse: Somebody listens there.
        BindFailed: The address cannot be listened on.
    """
    server = _Server(host=host, port=port, setting=setting, grace_s=grace_s)
    started, stop = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_shielded, server, app_factory, started, stop)
        try:
            await started.wait()
            if server.bound_port is not None:
                task_status.started(server.bound_port)
            await stop.wait()
        finally:
            stop.set()
    if server.error is not None:
        raise server.error


async def _run_shielded(
    server: "_Server",
    app_factory: Callable[[Bridge], web.Application],
    started: trio.Event,
    stop: trio.Event,
) -> None:
    """Own the thread and the tasks of requests; `stop` begins the draining."""
    token = trio.lowlevel.current_trio_token()

    def on_bound() -> None:
        token.run_sync_soon(started.set)

    async def run_thread(bridge: Bridge) -> None:
        try:
            await trio.to_thread.run_sync(
                server.run, lambda: app_factory(bridge), on_bound
            )
        except Exception as error:
            server.error = error
        started.set()
        stop.set()

    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as requests:
            async with trio.open_nursery() as thread:
                thread.start_soon(run_thread, Bridge(requests))
                await started.wait()
                await stop.wait()
                server.stop()
            requests.cancel_scope.cancel()


@dataclass(kw_only=True)
class _Server:
    """The asyncio thread's side."""

    host: str
    port: int
    setting: str
    grace_s: float
    bound_port: int | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def run(
        self, build_app: Callable[[], web.Application], on_bound: Callable[[], None]
    ) -> None:
        """Serve until `stop`; returns when drained."""
        asyncio.run(self._serve(build_app, on_bound))

    def stop(self) -> None:
        """Begin to drain; from any thread, any number of times."""
        with self._lock:
            if self._loop is not None and self._stop is not None:
                with suppress(RuntimeError):  # the loop ended by itself
                    self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(
        self, build_app: Callable[[], web.Application], on_bound: Callable[[], None]
    ) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
        runner = web.AppRunner(
            build_app(),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            # aiohttp waits twice: for handlers to end, then to notice; 0 is for ever.
            shutdown_timeout=max(self.grace_s / 2, 0.001),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        try:
            await runner.setup()
            await self._bind(runner)
            on_bound()
            await stop.wait()
        finally:
            await runner.cleanup()
            with self._lock:
                self._loop = self._stop = None

    async def _bind(self, runner: web.AppRunner) -> None:
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                address = f"{self.host}:{self.port}"
                raise PortInUse(address, self.setting) from error
            raise BindFailed(self.host, self.port, str(error)) from error
        except OverflowError as error:
            raise BindFailed(self.host, self.port, "a port is 0 to 65535") from error
        self.bound_port = runner.addresses[0][1]

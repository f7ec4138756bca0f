"""
The sessions of one gateway: each a task that outlives its reader by its last payment.

    start -> RunningSession: the reader listens to `receiver`
                 |   tokens -> ... -> summary
                 |             ... -> error
    stop  ------>+   pays what it got, frees every stage, `ended`
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from inference.sampling.params import SamplingParams
from inference.session.driver import RequesterSession
from inference.session.plan import SessionPlan, SessionSummary, TokenEvent
from inference.session.ports import HopFinder, RequesterPorts
from p2pchain.api.errors import NotReady

log = logging.getLogger(__name__)

WAITING_TOKENS = 64
"""Tokens that a slow reader may be behind before the session waits."""
DRAIN_S = 3.0
"""What open answers get to end by themselves when the node stops."""
CLOSE_S = 5.0
"""For those that did not, to pay their last step and tell their readers."""


@dataclass(slots=True)
class RunningSession:
    """One session between its task and its reader."""

    session: RequesterSession
    sender: trio.MemorySendChannel[TokenEvent]
    receiver: trio.MemoryReceiveChannel[TokenEvent]
    """Where the reader gets its tokens."""
    ended: trio.Event = field(default_factory=trio.Event)
    summary: SessionSummary | None = None
    """When it went to its end."""
    error: Exception | None = None
    """Why it did not."""

    @asynccontextmanager
    async def listening(
        self,
    ) -> AsyncGenerator[trio.MemoryReceiveChannel[TokenEvent], None]:
        """Give the tokens to a reader; whoever leaves ends the session, in order."""
        try:
            async with self.receiver:
                yield self.receiver
        finally:
            self.session.cancel()
            with trio.CancelScope(shield=True):
                await self.ended.wait()


class OpenSessions:
    """All of them, until each has ended."""

    def __init__(self, ports: RequesterPorts) -> None:
        """
        Args:
            ports: What a session is given, but for replacements of its hops.
        """
        self._ports = ports
        self._open: set[RequesterSession] = set()
        self._nursery: trio.Nursery | None = None
        self.is_stopping = False
        """Nothing begins any more."""

    async def run(self) -> None:
        """Run sessions until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    def list_plans(self) -> list[SessionPlan]:
        """Return the plans of those that are open, as they are now."""
        return [session.plan for session in self._open]

    def start(
        self, plan: SessionPlan, sampling: SamplingParams, finder: HopFinder
    ) -> RunningSession:
        """Begin a session.

        Args:
            plan: Its first route.
            sampling: How tokens are chosen.
            finder: Finds other hops for it.

        Raises:
            NotReady: The gateway does not run yet.
        """
        nursery = self._get_nursery()
        sender, receiver = trio.open_memory_channel[TokenEvent](WAITING_TOKENS)
        ports = replace(self._ports, finder=finder)
        session = RequesterSession(ports, plan, sampling)
        running = RunningSession(session, sender, receiver)
        self._open.add(session)
        nursery.start_soon(self._run_session, running)
        return running

    async def drain(self) -> None:
        """Begin nothing more; let open answers end, or end them in order."""
        self.is_stopping = True
        with trio.move_on_after(DRAIN_S):
            await self._wait_idle()
        for session in self._open:
            session.cancel()
        with trio.move_on_after(CLOSE_S):
            await self._wait_idle()

    async def _wait_idle(self) -> None:
        while self._open:
            await trio.sleep(0.05)

    def _get_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise NotReady("the gateway is starting; try again in a moment")
        return self._nursery

    async def _run_session(self, running: RunningSession) -> None:
        try:
            async with running.sender:
                running.summary = await running.session.run(running.sender.send)
        except trio.BrokenResourceError:
            log.debug("the reader has left")
        except Exception as error:
            session_id = running.session.plan.session_id
            log.warning("session %s: %s", session_id.hex()[:8], error)
            running.error = error
        finally:
            self._open.discard(running.session)
            running.ended.set()

"""
How something large is served: behind all else, a few parts at a time, at a rate.

Who asks gets at most `PEER_PARTS` at a time, everybody together `ALL_PARTS` and
`BYTES_PER_S`, so memory and the share of the processor have bounds, whatever the peers
do.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from network.network import Network
from network.serving import Handler, RequestHandler
from network.topics import Priority
from primitives.errors import MissingError

ALL_PARTS = 4
"""Parts in memory at a time, 8 MiB each at the very most."""
PEER_PARTS = 2
"""Of these for one peer: while one travels the next is read."""
WAITING = 32
"""Requests that wait for their turn; more are refused at once."""
BYTES_PER_S = 24 * 1024 * 1024
"""Served in the mean: below half of a core, reading and sealing together, and a fifth
of a line of 1 Gbit/s."""
BURST_BYTES = 4 * 1024 * 1024


class Busy(MissingError):
    """Too many ask at once; ask again, or somebody else."""


def serve_bulk(
    network: Network,
    questions: Mapping[str, RequestHandler],
    parts: Mapping[str, Handler],
    max_request_bytes: int,
) -> None:
    """Answer what peers ask about something large, behind all that is urgent.

    Args:
        network: Where they ask.
        questions: Who answers with one message, by protocol.
        parts: Who answers in pieces, by protocol.
        max_request_bytes: Of a question.
    """
    for protocol, answer in questions.items():
        network.handle_request(
            protocol,
            answer,
            priority=Priority.BULK,
            max_message_bytes=max_request_bytes,
        )
    for protocol, serve in parts.items():
        network.handle(
            protocol,
            serve,
            priority=Priority.BULK,
            max_message_bytes=max_request_bytes,
        )


class ServingTurns:
    """Who may read a part now."""

    def __init__(self) -> None:
        self._reading = trio.CapacityLimiter(ALL_PARTS)
        self._asking: Counter[bytes] = Counter()

    @asynccontextmanager
    async def take(self, peer_id: bytes) -> AsyncIterator[None]:
        """Wait for a turn and hold it for the block.

        Raises:
            Busy: This peer, or everybody together, asks for too much at once.
        """
        is_full = self._reading.statistics().tasks_waiting >= WAITING
        if is_full or self._asking[peer_id] >= 2 * PEER_PARTS:
            raise Busy("too many parts are asked for")
        self._asking[peer_id] += 1
        try:
            async with self._reading:
                yield
        finally:
            self._asking[peer_id] -= 1
            if not self._asking[peer_id]:
                del self._asking[peer_id]


class ServingBudget:
    """Bytes that may be served: a bucket that fills evenly."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def spend(self, size: int) -> None:
        """Return when `size` bytes more may go out."""
        now = trio.current_time()
        earliest = now - BURST_BYTES / BYTES_PER_S
        self._free_at = max(self._free_at, earliest) + size / BYTES_PER_S
        await trio.sleep(max(0.0, self._free_at - now))

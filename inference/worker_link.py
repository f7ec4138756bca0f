"""
The node's end of the socket to one worker process.

Calls from many tasks travel in order; each waits for the answer with its number.  A
caller that is cancelled leaves its number behind and the late answer is dropped, so
the stream stays in step.  When the worker goes, every waiting call gets WorkerLost.
"""

import math
import socket
from collections.abc import Callable
from itertools import count

import trio

from inference.errors import Busy, WorkerError, WorkerLost, type_of_code
from inference.worker_wire import (
    PREFIX_BYTES,
    Answer,
    Ready,
    Refused,
    Request,
    decode_answer,
    decode_prefix,
    encode_frame,
)
from primitives.errors import DecodeError

MAX_CALLS = 64
"""Calls waiting for one worker.  It does one at a time; more would only wait longer
than any step's deadline."""

_JOIN_BYTES = 32 * 1024
"""Below this one copy is cheaper than a second system call."""
SOCKET_BUFFER_BYTES = 1024 * 1024
"""A decode step of any model, and most prefill chunks, fit without a second turn."""

BuildRequest = Callable[[int], Request]


class _Waiter:
    """One call that waits for its answer."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Answer | None = None
        self.payload = b""


class WorkerLink:
    """Calls to one worker process, from its start to its end."""

    def __init__(self, end: socket.socket) -> None:
        """Take the node's end of the socket pair."""
        end.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(end)
        self._waiters: dict[int, _Waiter] = {}
        self._numbers = count(1)
        # Bounded by `call`, so that `post` always finds room.
        frames = trio.open_memory_channel[tuple[bytes, bytes | memoryview]](math.inf)
        self._frame_sender, self._frame_receiver = frames
        self._is_open = True

    async def receive_ready(self) -> Ready:
        """Wait for the worker's first frame.

        Raises:
            The typed error with which the worker refuses to start.
            WorkerLost: It ended before.
        """
        answer, _ = await self._receive()
        if isinstance(answer, Refused):
            raise build_error(answer)
        if not isinstance(answer, Ready):
            raise WorkerLost(f"the first frame was {type(answer).__name__}")
        return answer

    async def run(self) -> None:
        """Carry calls and answers until the worker goes; always ends by WorkerLost."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_frames)
                nursery.start_soon(self._receive_answers)
        except* WorkerLost:
            pass
        finally:
            self._is_open = False
            for waiter in self._waiters.values():
                waiter.done.set()
        raise WorkerLost("the worker closed its socket")

    async def call(
        self, build: BuildRequest, payload: bytes | memoryview = b""
    ) -> tuple[Answer, bytes]:
        """Send a request and return its answer with the answer's payload.

        Args:
            build: Makes the request from its call number.
            payload: Hidden states that go with it.

        Raises:
            Busy: Too many calls are waiting.
            WorkerLost: The worker went before it answered.
            The typed error with which the worker refuses.
        """
        unsent = self._frame_sender.statistics().current_buffer_used
        # Cancelled calls wait for nothing, but are still to be sent.
        if max(len(self._waiters), unsent) >= MAX_CALLS:
            raise Busy(f"{MAX_CALLS} calls are waiting for this worker")
        number = self.post(build, payload)
        waiter = self._waiters[number] = _Waiter()
        try:
            await waiter.done.wait()
        finally:
            del self._waiters[number]
        if waiter.answer is None:
            raise WorkerLost("the worker went during the call")
        if isinstance(waiter.answer, Refused):
            raise build_error(waiter.answer)
        return waiter.answer, waiter.payload

    def post(self, build: BuildRequest, payload: bytes | memoryview = b"") -> int:
        """Send a request whose answer nobody waits for; return its number.

        It is never refused as Busy: this is how room is made.

        Raises:
            WorkerLost: The worker is not running.
        """
        if not self._is_open:
            raise WorkerLost("the worker is not running")
        number = next(self._numbers) % 2**32
        frame = encode_frame(build(number), len(payload))
        self._frame_sender.send_nowait((frame, payload))
        return number

    def close(self) -> None:
        """Close the socket, which also ends the worker."""
        self._is_open = False
        self._socket.close()

    async def _send_frames(self) -> None:
        async for frame, payload in self._frame_receiver:
            if len(payload) <= _JOIN_BYTES:
                await self._send_all(frame + bytes(payload))
            else:
                await self._send_all(frame)
                await self._send_all(payload)

    async def _send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[await self._socket.send(view) :]
        except OSError as error:
            raise WorkerLost("the worker closed its socket") from error

    async def _receive_answers(self) -> None:
        while True:
            answer, payload = await self._receive()
            waiter = self._waiters.get(getattr(answer, "call", 0))
            if waiter is not None:
                waiter.answer, waiter.payload = answer, payload
                waiter.done.set()

    async def _receive(self) -> tuple[Answer, bytes]:
        try:
            prefix = await self._receive_exactly(PREFIX_BYTES)
            header_bytes, payload_bytes = decode_prefix(prefix)
            answer = decode_answer(await self._receive_exactly(header_bytes))
            payload = b""
            if payload_bytes:
                payload = bytes(await self._receive_exactly(payload_bytes))
        except DecodeError as error:
            # The worker is ours: out of step means broken, and it is started anew.
            raise WorkerLost(f"the worker's stream is broken: {error}") from error
        return answer, payload

    async def _receive_exactly(self, length: int) -> bytearray:
        buffer = bytearray(length)
        view = memoryview(buffer)
        done = 0
        while done < length:
            try:
                received = await self._socket.recv_into(view[done:])
            except OSError as error:
                raise WorkerLost("the worker closed its socket") from error
            if received == 0:
                raise WorkerLost("the worker closed its socket")
            done += received
        return buffer


def open_pair() -> tuple[socket.socket, socket.socket]:
    """Return a connected pair of sockets: the node's end and the worker's."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    return pair


def build_error(refused: Refused) -> Exception:
    """Return the error that a worker's refusal stands for."""
    return type_of_code.get(refused.code, WorkerError)(refused.text)

"""
The node's end of the socket to one worker process.

Calls from many tasks travel in order; each waits for the answer with its number, and
answers come when they are ready.  A caller that is cancelled leaves its number behind
and the late answer is dropped, so the stream stays in step.  When the worker goes,
every waiting call gets WorkerLost.

A frame leaves in the caller's own turn where the socket takes it, an answer comes with
one read, and `begin` calls back without a task that waits: each detour over the event
loop would cost as much as all of it.
"""

import math
import socket
from collections.abc import Callable
from itertools import count

import trio

from inference.errors import Busy, WorkerError, WorkerLost, type_of_code
from inference.worker.wire import (
    PREFIX_BYTES,
    Answer,
    Ready,
    Refused,
    Request,
    decode_answer,
    decode_prefix,
    encode_frame,
)
from primitives.errors import DecodeError, P2PChainError

MAX_CALLS = 1024
"""Calls waiting for one worker: one for each session that the larger of the workers,
the requester, takes.  How many sessions there are is bounded where they are opened, and
each has one step under way; this is for callers that went wrong."""

_READ_BYTES = 64 * 1024
"""Asked for at once: a decode step's answer of any model, prefix and all."""
SOCKET_BUFFER_BYTES = 1024 * 1024
"""A decode step of any model, and most prefill chunks, fit without a second turn."""

BuildRequest = Callable[[int], Request]


TakeAnswer = Callable[[Answer | P2PChainError, bytes], None]
"""Takes the answer to a call with its payload, or the reason why there is none."""


class WorkerLink:
    """Calls to one worker process, from its start to its end."""

    def __init__(self, end: socket.socket) -> None:
        """Take the node's end of the socket pair."""
        end.setblocking(False)
        self._end = end
        self._socket = trio.socket.from_stdlib_socket(end)
        self._received = bytearray()
        self._missing = PREFIX_BYTES
        """Bytes without which there is no whole frame."""
        self._waiting: dict[int, TakeAnswer] = {}
        self._numbers = count(1)
        # Bounded by `call`, so that `post` always finds room.
        frames = trio.open_memory_channel[list[bytes | memoryview]](math.inf)
        self._frame_sender, self._frame_receiver = frames
        self._unsent = 0
        """Frames that are not wholly in the socket."""
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
            waiting, self._waiting = self._waiting, {}
            for take in waiting.values():
                take(WorkerLost("the worker went during the call"), b"")
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
        done = trio.Event()
        found: list[tuple[Answer | P2PChainError, bytes]] = []

        def take(answer: Answer | P2PChainError, payload: bytes) -> None:
            found.append((answer, payload))
            done.set()

        number = self.begin(build, payload, take)
        try:
            await done.wait()
        finally:
            self.give_up(number)
        answer, answer_payload = found[0]
        if isinstance(answer, P2PChainError):
            raise answer
        return answer, answer_payload

    def begin(
        self, build: BuildRequest, payload: bytes | memoryview, take: TakeAnswer
    ) -> int:
        """Send a request; `take` gets its answer, later, or what went wrong.

        Returns:
            The call's number.

        Raises:
            Busy: Too many calls are waiting.
            WorkerLost: The worker is not running.
        """
        # Calls that were given up wait for nothing, but are still to be sent.
        if max(len(self._waiting), self._unsent) >= MAX_CALLS:
            raise Busy(f"{MAX_CALLS} calls are waiting for this worker")
        number = self.post(build, payload)
        self._waiting[number] = take
        return number

    def give_up(self, number: int) -> None:
        """Wait for a call's answer no more."""
        self._waiting.pop(number, None)

    def post(self, build: BuildRequest, payload: bytes | memoryview = b"") -> int:
        """Send a request whose answer nobody waits for; return its number.

        It is never refused as Busy: this is how room is made.

        Raises:
            WorkerLost: The worker is not running.
        """
        if not self._is_open:
            raise WorkerLost("the worker is not running")
        number = next(self._numbers) % 2**32
        parts = [encode_frame(build(number), len(payload)), payload]
        if not self._unsent:
            parts = self._send_now(parts)
        if parts:
            self._unsent += 1
            self._frame_sender.send_nowait(parts)
        return number

    def _send_now(self, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """Send what the socket takes without waiting; return what is left."""
        try:
            sent = self._end.sendmsg(parts)
        except BlockingIOError:
            return parts
        except OSError as error:
            raise WorkerLost("the worker closed its socket") from error
        left: list[bytes | memoryview] = []
        for part in parts:
            if sent < len(part):
                left.append(memoryview(part)[sent:])
            sent = max(0, sent - len(part))
        return left

    def close(self) -> None:
        """Close the socket, which also ends the worker."""
        self._is_open = False
        self._socket.close()

    async def _send_frames(self) -> None:
        async for parts in self._frame_receiver:
            for part in parts:
                await self._send_all(part)
            self._unsent -= 1

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
            take = self._waiting.pop(getattr(answer, "call", 0), None)
            if take is None:
                continue
            if isinstance(answer, Refused):
                take(build_error(answer), b"")
            else:
                take(answer, payload)

    async def _receive(self) -> tuple[Answer, bytes]:
        try:
            while (frame := self._cut_frame()) is None:
                await self._read_more()
        except DecodeError as error:
            # The worker is ours: out of step means broken, and it is started anew.
            raise WorkerLost(f"the worker's stream is broken: {error}") from error
        return frame

    def _cut_frame(self) -> tuple[Answer, bytes] | None:
        """Take the next frame off what was received, when it is whole."""
        received = self._received
        self._missing = PREFIX_BYTES - len(received)
        if self._missing > 0:
            return None
        header_bytes, payload_bytes = decode_prefix(received)
        start = PREFIX_BYTES + header_bytes
        end = start + payload_bytes
        self._missing = end - len(received)
        if self._missing > 0:
            return None
        answer = decode_answer(received[PREFIX_BYTES:start])
        payload = bytes(memoryview(received)[start:end])
        del received[:end]
        return answer, payload

    async def _read_more(self) -> None:
        # Nearly always nothing is there yet: wait first.
        await trio.lowlevel.wait_readable(self._end)
        try:
            part = self._end.recv(max(self._missing, _READ_BYTES))
        except BlockingIOError:
            return
        except OSError as error:
            raise WorkerLost("the worker closed its socket") from error
        if not part:
            raise WorkerLost("the worker closed its socket")
        self._received += part


def open_pair() -> tuple[socket.socket, socket.socket]:
    """Return a connected pair of sockets: the node's end and the worker's."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    return pair


def build_error(refused: Refused) -> P2PChainError:
    """Return the error that a worker's refusal stands for."""
    return type_of_code.get(refused.code, WorkerError)(refused.text)

"""One worker process for chunks, as the node sees it: start, talk, kill."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Self

from p2pchain.node.chunks.wire import (
    Answer,
    LinkFailed,
    Ready,
    Request,
    decode_answer,
    receive_frame,
    send_message,
)
from primitives.errors import DecodeError, LocalError

PATIENCE_S = 20.0
"""A full block takes a worker a tenth of a second; who is silent that long is stuck."""


class WorkerLost(LocalError):
    """A worker is of no use any more; says nothing of the chunk that it had."""


class ChunkProcess:
    """A process of `p2pchain.node.chunks.worker` and our end of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], link: socket.socket) -> None:
        """Use `start`."""
        self.process = process
        self.link = link
        self._is_ready = False

    @classmethod
    def start(cls, bls: str) -> Self:
        """Start a process and return without waiting for it.

        Args:
            bls: Backend of signatures, as this process uses it.

        Raises:
            OSError: The system has no room for another process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "p2pchain.node.chunks.worker"),
                        *("--fd", str(theirs.fileno()), "--bls", bls),
                    ],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    # Ctrl-C goes to the node, which ends its workers itself.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        ours.settimeout(PATIENCE_S)
        return cls(process, ours)

    def is_ready(self) -> bool:
        """Tell whether it has started; does not wait for it.

        Raises:
            WorkerLost: It has ended, or says something else first.
        """
        if not self._is_ready and wait_readable([self], 0):
            answer = self.receive()
            if not isinstance(answer, Ready):
                raise WorkerLost(f"{type(answer).__name__} before Ready")
            self._is_ready = True
        return self._is_ready

    def send(self, request: Request) -> None:
        """Send a request.

        Raises:
            WorkerLost: It has ended, or does not read, or could not take so much.
        """
        try:
            send_message(self.link, request)
        except (OSError, LinkFailed) as error:
            raise WorkerLost(f"{type(error).__name__}: {error}") from error

    def receive(self) -> Answer:
        """Wait for the next answer.

        Raises:
            WorkerLost: It has ended, or does not write, or writes no answer.
        """
        try:
            data = receive_frame(self.link)
            if data is None:
                raise LinkFailed("it has ended")
            return decode_answer(data)
        except (OSError, LinkFailed, DecodeError) as error:
            raise WorkerLost(f"{type(error).__name__}: {error}") from error

    def kill(self) -> None:
        """End it at once; returns when it is gone."""
        self.link.close()
        self.process.kill()
        self.process.wait()


def wait_readable(
    workers: Iterable[ChunkProcess], timeout_s: float
) -> list[ChunkProcess]:
    """Return those who have said something, after waiting for the first of them.

    Args:
        workers: Any number.
        timeout_s: How long to wait at most.
    """
    # Not select(): a node with a database may have more than 1,024 files open.
    poll = select.poll()
    by_fd = {worker.link.fileno(): worker for worker in workers}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    return [by_fd[fd] for fd, _ in poll.poll(1000 * timeout_s)]

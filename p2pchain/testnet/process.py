"""
One node of a test network as a process: start, stop, kill, pause.

A node holds the read end of a pipe of ours and stops when we end, however we end.
Its process group is its own, in our session: Ctrl-C reaches only us, and should we be
killed while a node is paused, the kernel continues the orphan, which then stops too.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from subprocess import DEVNULL, STDOUT
from typing import Any

import trio

from p2pchain.node.home.home import Home
from p2pchain.testnet.errors import NodeDied, Stalled
from p2pchain.testnet.rpc import NodeRpc

LISTEN_S = 180.0
"""Until a started node offers RPC; a second, but scrypt and replay take their time."""
STOP_S = 60.0
"""For a clean end after SIGTERM."""
POLL_S = 0.1
LOG_LINES = 25

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(slots=True)
class NodeProcess:
    """One node, which may run or not."""

    name: str
    home: Home
    parent_fd: int
    """Read end of the pipe that closes when we end."""
    process: trio.Process | None = None
    rpc: NodeRpc | None = None
    """None while it does not listen."""
    is_paused: bool = False
    restarts: int = -1
    """Starts after the first one."""
    busy: trio.Lock = field(default_factory=trio.Lock)
    """Held by whoever disturbs the node."""
    _is_told_to_end: bool = False

    @property
    def is_running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self.process is not None and self.process.returncode is None

    @property
    def is_reachable(self) -> bool:
        """Whether its RPC should answer."""
        return self.rpc is not None and self.is_running and not self.is_paused

    async def start(self) -> None:
        """Start it and return when its RPC listens.

        Raises:
            NodeDied: It ended instead.
            Stalled: It does neither.
        """
        assert not self.is_running
        self.home.runtime.unlink(missing_ok=True)
        with (self.home.path / "node.log").open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "p2pchain", "--home", str(self.home.path),
                 "start", "--parent-fd", str(self.parent_fd)],
                stdin=DEVNULL, stdout=log, stderr=STDOUT, pass_fds=(self.parent_fd,),
                process_group=0, env=os.environ | _ENVIRONMENT,
            )  # fmt: skip
        self._is_told_to_end = False
        self.restarts += 1
        with trio.move_on_after(LISTEN_S):
            while not self.home.runtime.is_file():
                self.require_alive()
                await trio.sleep(POLL_S)
            self.rpc = NodeRpc(json.loads(self.home.runtime.read_text())["rpc"])
            return
        raise Stalled(f"{self.name} does not listen; its log:\n{self.read_log_tail()}")

    async def stop(self) -> None:
        """End it with SIGTERM.

        Raises:
            NodeDied: It ended with another code than 0.
            Stalled: It does not end.
        """
        assert self.process is not None
        self._begin_end()
        self.process.terminate()
        with trio.move_on_after(STOP_S):
            code = await self.process.wait()
            if code:
                raise NodeDied(
                    f"{self.name} ended with code {code} after SIGTERM; its log:\n"
                    + self.read_log_tail()
                )
            return
        raise Stalled(
            f"{self.name} does not end {STOP_S:.0f} s after SIGTERM; its log:\n"
            + self.read_log_tail()
        )

    async def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        self._begin_end()
        self.process.kill()
        await self.process.wait()

    def pause(self) -> None:
        """Take it off the processor."""
        assert self.process is not None
        self.is_paused = True
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on."""
        if self.process is not None and self.is_running:
            self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    async def end(self) -> None:
        """End it at the end of the run, in order when it can; never raises."""
        if self.process is None or not self.is_running:
            return
        self.resume()
        self._begin_end()
        self.process.terminate()
        with trio.move_on_after(STOP_S):
            await self.process.wait()
            return
        self.process.kill()
        await self.process.wait()

    def require_alive(self) -> None:
        """Raise NodeDied when it ended and nobody had told it to."""
        if self.process is None or self._is_told_to_end:
            return
        code = self.process.poll()
        if code is not None:
            raise NodeDied(
                f"{self.name} ended by itself with code {code}; its log:\n"
                + self.read_log_tail()
            )

    def read_log_tail(self) -> str:
        """Return the last lines that it logged."""
        return "\n".join(self.read_log().splitlines()[-LOG_LINES:])

    def read_log(self) -> str:
        """Return everything that it logged, over all its starts."""
        try:
            return (self.home.path / "node.log").read_text(errors="replace")
        except OSError:
            return ""

    def build_summary(self) -> dict[str, Any]:
        """Return what the report says of the process."""
        pid = self.process.pid if self.process else None
        return {
            "name": self.name,
            "pid": pid,
            "home": str(self.home.path),
            "restarts": max(0, self.restarts),
        }

    def _begin_end(self) -> None:
        self._is_told_to_end = True
        self.rpc = None

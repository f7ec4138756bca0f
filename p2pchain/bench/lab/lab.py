"""
Where sections work: a folder that goes away, and networks of processes in it.

Everything listens on loopback, and everything that was started here is stopped here.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from p2pchain.client import RpcClient
from p2pchain.node.home.home import Home
from p2pchain.node.home.initialise import create_network
from primitives.errors import P2PChainError

VALIDATORS = 4
STOP_S = 40.0
"""For a network to drain and close its stores before it is killed."""

Report = Callable[[str], None]


class BenchError(P2PChainError):
    """A section could not measure what it should."""


@dataclass(slots=True)
class RunningNetwork:
    """A devnet in processes of its own."""

    process: subprocess.Popen[str]
    api: str
    nodes: list[dict[str, Any]]
    ready_s: float
    """From the start of the first process until all said READY."""

    @property
    def gateway(self) -> dict[str, Any]:
        """What the READY line says of the gateway."""
        return next(node for node in self.nodes if node["rpc"] == self.api)

    @property
    def pids(self) -> list[int]:
        """The nodes' processes, without their workers."""
        return [node["pid"] for node in self.nodes]

    def client(self, node: dict[str, Any] | None = None) -> RpcClient:
        """Return a client of a node with the right to spend; default the gateway."""
        node = node or self.gateway
        token = Home(Path(node["home"])).load_api_token()
        return RpcClient(node["rpc"], token, timeout_s=120)

    def stop(self) -> float:
        """Stop everything in order; returns the seconds that it took.

        Raises:
            BenchError: It did not end by itself, or not well.
        """
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # The nodes hold a pipe of the devnet's and stop when it ends.
            self.process.kill()
            self.process.wait()
            raise BenchError(f"the devnet did not stop in {STOP_S:.0f} s") from None
        if code != 0:
            raise BenchError(f"the devnet ended with code {code}")
        return time.monotonic() - started


@dataclass(slots=True)
class Lab:
    """What the sections share."""

    folder: Path
    """Empty at first, and removed at the end."""
    report: Report
    """Takes a line of progress."""
    create_s: float = 0.0
    """What making the shared network's keys and homes took."""
    _network: RunningNetwork | None = field(default=None)

    def get_network(self) -> RunningNetwork:
        """Return the network that sections share; the first one starts it."""
        if self._network is None:
            started = time.monotonic()
            self.create("devnet")
            self.create_s = time.monotonic() - started
            self._network = self.start("devnet")
        return self._network

    def restart_network(self) -> tuple[float, RunningNetwork]:
        """Stop the shared network and start it again from its homes.

        Returns:
            The seconds that stopping took, and the network, which knows its start's.
        """
        stop_s = self.get_network().stop()
        self._network = None
        self._network = self.start("devnet")
        return stop_s, self._network

    def create(
        self, name: str, model: str = "bundled", replicas: int = 1, **settings: Any
    ) -> Path:
        """Make the homes of a network.

        Args:
            name: Its folder.
            model: As in config.toml.
            replicas: Validators that host the same layers.
            settings: Of config.toml, for the nodes that host layers.
        """
        folder = self.folder / name
        network = create_network(
            folder,
            validators=VALIDATORS,
            replicas=replicas,
            model=model,
            passphrase="bench",
            time_ms=time.time_ns() // 1_000_000,
            is_devnet=True,
        )
        for each in network.homes if settings else ():
            home = Home(each.path)
            config = home.load_config()
            if config.layers:
                home.save_config(replace(config, **settings))
        return folder

    def start(self, name: str) -> RunningNetwork:
        """Start the network in the folder `name` and wait until it is READY.

        Raises:
            BenchError: It ended instead; has the end of what it said.
        """
        self.report(f"starting {name}")
        started = time.monotonic()
        log = self.folder / f"{name}.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "p2pchain", "--home", str(self.folder / name),
                 "--json", "devnet"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                text=True, start_new_session=True,
            )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            ready = json.loads(line)
        except json.JSONDecodeError:
            # No READY line but nothing, or an error over several lines.
            said = line + process.communicate()[0] + log.read_text()
            raise BenchError(f"the devnet did not start: {said[-2000:]}") from None
        return RunningNetwork(
            process, ready["api"], ready["nodes"], time.monotonic() - started
        )

    @contextmanager
    def open_network(self, name: str) -> Iterator[RunningNetwork]:
        """Run the network in the folder `name` inside the block."""
        network = self.start(name)
        try:
            yield network
        finally:
            network.stop()

    def close(self) -> None:
        """Stop what still runs."""
        if self._network is not None:
            network, self._network = self._network, None
            with suppress(BenchError):
                network.stop()


class LineProcess:
    """A process that answers every line of JSON with one; used as a context."""

    def __init__(self, *arguments: str) -> None:
        """Start `python -m *arguments` and wait for its first line."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._read()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            BenchError: The process is gone.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the reference ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "LineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

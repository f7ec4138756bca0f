"""
Real processes, started as a person would start them.

Nodes run side by side, and each has a block when it has it: what one node shows says
nothing of another.  So a test waits at the node that it reads, with `wait_until`, which
takes a refusal for "not yet", and `wait_height`.  Bounds of waiting are for machines
with two busy cores, where a second of work takes half a minute; none is a measurement.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2pchain.client import RpcClient, RpcError

EPOCH_BLOCKS = 4
UNBONDING_EPOCHS = 6
SHORT_EPOCHS = (
    "--epoch-blocks", str(EPOCH_BLOCKS),
    "--evidence-epochs", "1",
    "--unbonding-epochs", str(UNBONDING_EPOCHS),
    "--epoch-reward", "8",
    "--interval-ms", "300",
)  # fmt: skip
"""Of a devnet whose epochs last a second or two."""
WAIT_S = 180
"""For whatever takes a few blocks, or a few short epochs."""
START_S = 240
"""For a node to listen, and for a devnet to become READY."""
STOP_S = 120
"""For a node to end in order."""
ANSWER_S = 180
"""For an answer of a model, or the next piece of one."""


def run_cli(*args: str, timeout: float = WAIT_S, **kwargs: Any):
    """Run the `p2pchain` command and return the completed process."""
    command = [sys.executable, "-m", "p2pchain", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, **kwargs
    )


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Return the first true value of `condition`, or fail naming `what`.

    A node that does not answer, or refuses, or is not there yet, is asked again.
    """
    deadline = time.monotonic() + seconds
    while True:
        reason: object = ""
        try:
            value = condition()
        except (RpcError, FileNotFoundError) as error:
            value, reason = None, f"; at last: {error}"
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain for {what}{reason}")
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    """Tell whether there is such a process, and not only its remains."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_ended(*pids: int) -> None:
    """Wait until processes have let go of everything that they held."""
    wait_until(lambda: not any(map(is_running, pids)), "processes to end", STOP_S)


def start_node(home: Path, *args: str) -> subprocess.Popen[bytes]:
    """Start the node of a home and return its process once it listens."""
    runtime = home / "node.json"
    runtime.unlink(missing_ok=True)
    with (home / "node.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "p2pchain", "--home", str(home), *args],
            stdout=log, stderr=log,
        )  # fmt: skip
    wait_until(
        lambda: runtime.is_file() or process.poll() is not None,
        f"{home.name} to listen",
        START_S,
    )
    if process.poll() is not None:
        tail = (home / "node.log").read_text(errors="replace")[-4000:]
        pytest.fail(f"{home.name} ended with code {process.returncode}:\n{tail}")
    return process


def stop_node(process: subprocess.Popen[Any]) -> int:
    """SIGTERM a node, if it runs, and return its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(STOP_S)


def read_rpc_url(home: Path) -> str:
    """Return where the running node of a home offers RPC."""
    return str(json.loads((home / "node.json").read_text())["rpc"])


@dataclass
class RunningDevnet:
    """A devnet in the foreground of a process of its own."""

    process: subprocess.Popen[str]
    api: str
    nodes: list[dict[str, Any]]

    def get_node(self, name: str) -> dict[str, Any]:
        """Return what the READY line said of the node `name`."""
        return next(node for node in self.nodes if node["name"] == name)

    @property
    def validators(self) -> list[dict[str, Any]]:
        """Nodes that host layers, in the order of their layers."""
        return [node for node in self.nodes if node["layers"]]

    @property
    def gateway(self) -> dict[str, Any]:
        """The node behind `api`."""
        return next(node for node in self.nodes if node["rpc"] == self.api)

    @property
    def api_key(self) -> str:
        """The gateway's token."""
        return (Path(self.gateway["home"]) / "api_token").read_text().strip()

    def rpc(self, name: str = "gateway", *, token: bool = False) -> RpcClient:
        """Return an RPC client of the node `name`."""
        node = self.gateway if name == "gateway" else self.get_node(name)
        secret = (Path(node["home"]) / "api_token").read_text().strip()
        return RpcClient(node["rpc"], secret if token else None, timeout_s=WAIT_S)

    def height(self, name: str = "gateway") -> int:
        """Return the final height of the node `name`, once it answers."""
        status = wait_until(lambda: self.rpc(name).call("status"), f"{name} to answer")
        return int(status["height"])

    def wait_height(self, height: int, name: str = "gateway") -> None:
        """Wait until the node `name` has finalized `height`."""

        def is_there() -> bool:
            return int(self.rpc(name).call("status")["height"]) >= height

        wait_until(is_there, f"{name} at height {height}")

    def read_block_hash(self, height: int, name: str = "gateway") -> str:
        """Return the hash of a final block, once the node `name` has it."""
        self.wait_height(height, name)
        return str(self.rpc(name).call("block", height=height)["block_hash"])

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal the node `name` and wait until it has ended."""
        pid = self.get_node(name)["pid"]
        os.kill(pid, number)
        wait_ended(pid)

    def restart(self, name: str) -> None:
        """Start the node `name`, once it has ended, as the devnet's message says."""
        node = self.get_node(name)
        wait_ended(node["pid"])
        home = Path(node["home"])
        process = start_node(home, "start")
        self.restarted.append(process)
        node["pid"] = process.pid
        node["rpc"] = read_rpc_url(home)

    def __post_init__(self) -> None:
        self.restarted: list[subprocess.Popen[bytes]] = []

    def stop(self) -> int:
        """SIGTERM everything that runs; return the devnet's exit code."""
        processes = [*self.restarted, self.process]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        return [process.wait(STOP_S) for process in processes][-1]


def start_devnet(home: Path, *args: str) -> RunningDevnet:
    """Start `p2pchain devnet` and return once it has printed its READY line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "p2pchain", "--home", str(home), "--json", "devnet",
         *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, stderr = process.communicate(timeout=30)
        pytest.fail(f"the devnet did not start:\n{stderr[-4000:]}")
    ready = json.loads(line)
    return RunningDevnet(process, ready["api"], ready["nodes"])

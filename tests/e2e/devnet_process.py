"""Real processes, started as a person would start them."""

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
EPOCHS_S = 180
"""What a few of them get on a busy machine; a bound, not a measurement."""
START_S = 180
"""What a devnet gets to become READY on a busy machine; a bound, not a measurement."""


def run_cli(*args: str, timeout: float = 60, **kwargs: Any):
    """Run the `p2pchain` command and return the completed process."""
    command = [sys.executable, "-m", "p2pchain", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, **kwargs
    )


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Return the first true value of `condition`, or fail naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.1)


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
        return RpcClient(node["rpc"], token=secret if token else None)

    def height(self, name: str = "gateway") -> int:
        """Return the final height of the node `name`; -1 while it does not answer."""
        try:
            return int(self.rpc(name).call("status")["height"])
        except RpcError:
            return -1

    def wait_height(self, height: int, name: str = "gateway") -> None:
        """Wait until the node `name` has finalized `height`."""
        wait_until(lambda: self.height(name) >= height, f"{name} at height {height}")

    def restart(self, name: str) -> None:
        """Start the node `name` again, as the devnet's message says."""
        node = self.get_node(name)
        home = Path(node["home"])
        (home / "node.json").unlink(missing_ok=True)
        with (home / "node.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "p2pchain", "--home", str(home), "start"],
                stdout=log, stderr=log,
            )  # fmt: skip
        self.restarted.append(process)
        wait_until((home / "node.json").is_file, f"{name} to listen", START_S)
        node["pid"] = process.pid
        node["rpc"] = json.loads((home / "node.json").read_text())["rpc"]

    def __post_init__(self) -> None:
        self.restarted: list[subprocess.Popen[bytes]] = []

    def stop(self) -> int:
        """SIGTERM everything that runs; return the devnet's exit code."""
        for process in [*self.restarted, self.process]:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.restarted:
            process.wait(30)
        return self.process.wait(60)


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

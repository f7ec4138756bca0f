"""
What a reader notices when a provider dies: seconds from the kill to the next text.

Four validators host two ranges, two of them each.  In the middle of a long answer a
SIGKILL takes the worker of one range's provider, or its whole node; the other provider
computes every position so far and goes on.  The text is compared with an undisturbed
one.  The same gap without a kill is measured beside it: on a busy machine it is not
nothing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from p2pchain.bench.answers.decode import STRANGE_QUESTIONS
from p2pchain.bench.lab.lab import BenchError, Lab, RunningNetwork
from p2pchain.bench.report import Figure, Goal, describe
from p2pchain.client import RpcClient, RpcError
from p2pchain.node.home.initialise import BUNDLED_NAME

WORKER_KILLS = 12
NODE_KILLS = 3
"""A node takes half a minute to come back, and the chain misses a vote meanwhile."""
TOKENS = 200
KILL_AT = 30
"""Pieces of text that come before the kill."""
GOAL = Goal(2.0, is_floor=False)
"""Beyond the replay, which takes a tenth of a second here."""
READY_S = 120.0
POLL_S = 0.2


def run_recovery(lab: Lab) -> list[Figure]:
    """Kill workers, then nodes, in the middle of answers."""
    lab.create("recovery-devnet", replicas=2)
    with lab.open_network("recovery-devnet") as network:
        probe = Probe(network)
        text, plain_s = probe.ask(lambda _: None)
        worker_s, node_s = [], []
        for number in range(WORKER_KILLS):
            lab.report(f"killing worker {number + 1} of {WORKER_KILLS}")
            worker_s.append(probe.disturb(text, number % 2, is_node=False))
        for number in range(NODE_KILLS):
            lab.report(f"killing node {number + 1} of {NODE_KILLS}")
            node_s.append(probe.disturb(text, number % 2, is_node=True))
        probe.stop()
    return [
        describe("worker killed to next text", worker_s, "s", 1, GOAL),
        describe("node killed to next text", node_s, "s", 1, GOAL),
        Figure("every answer is the undisturbed one", True),
        Figure("longest gap of the same answer undisturbed", plain_s, "s"),
    ]


class Probe:
    """Asks the same again and again, and breaks something in the middle."""

    def __init__(self, network: RunningNetwork) -> None:
        self._network = network
        self._nodes = {node["name"]: node for node in network.nodes}
        self._restarted: list[subprocess.Popen[bytes]] = []

    def disturb(self, expected: str, place: int, *, is_node: bool) -> float:
        """Return the seconds from a kill to the next text.

        Args:
            expected: The undisturbed answer.
            place: Whom to kill: its place in the route.
            is_node: The whole node, not just its worker.

        Raises:
            BenchError: The answer was another one.
        """
        self._wait_ready()

        def kill(route: list[str]) -> None:
            self._kill(route[place], is_node=is_node)

        text, gap_s = self.ask(kill)
        if text != expected:
            raise BenchError(f"another answer after a kill: {text[-200:]!r}")
        return gap_s

    def ask(self, then: Callable[[list[str]], None]) -> tuple[str, float]:
        """Return an answer and the longest wait for a piece of it after `then`."""
        body = {
            "model": BUNDLED_NAME,
            "messages": [{"role": "user", "content": STRANGE_QUESTIONS[0]}],
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            # Or the replacement has the beginning from the last time.
            "prefix_cache": False,
        }
        text, pieces, longest_s, last = "", 0, 0.0, 0.0
        route: list[str] = []
        for chunk in self._network.client().stream_chat(body):
            if "headers" in chunk:
                route = chunk["headers"]["x-p2pchain-route"].split(",")
                continue
            piece = "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            if not piece:
                continue
            now = time.perf_counter()
            if pieces >= KILL_AT:
                longest_s = max(longest_s, now - last)
            text, pieces, last = text + piece, pieces + 1, now
            if pieces == KILL_AT:
                then(route)
                last = time.perf_counter()
        return text, longest_s

    def _kill(self, name: str, *, is_node: bool) -> None:
        """SIGKILL a node's worker, or the node, which is started again."""
        node = self._nodes[name]
        if not is_node:
            os.kill(self._get_status(name)["stages"][0]["pid"], signal.SIGKILL)
            return
        os.kill(node["pid"], signal.SIGKILL)
        home = Path(node["home"])
        (home / "node.json").unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "p2pchain", "--home", str(home), "start"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._restarted.append(process)
        node["pid"], node["rpc"] = process.pid, None

    def stop(self) -> None:
        """Stop the nodes that were started again."""
        for process in self._restarted:
            if process.poll() is None:
                process.terminate()
        for process in self._restarted:
            process.wait()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        names = [name for name, node in self._nodes.items() if node["layers"]]
        while not all(self._is_ready(name) for name in names):
            if time.monotonic() > deadline:
                raise BenchError(f"not all were ready again in {READY_S:.0f} s")
            time.sleep(POLL_S)

    def _is_ready(self, name: str) -> bool:
        try:
            return bool(self._get_status(name)["ready"])
        except (RpcError, OSError, ValueError):
            return False

    def _get_status(self, name: str) -> dict[str, Any]:
        node = self._nodes[name]
        if node["rpc"] is None:
            home = Path(node["home"])
            node["rpc"] = _read_rpc(home / "node.json")
        status: dict[str, Any] = RpcClient(node["rpc"], timeout_s=10).call("status")
        return status


def _read_rpc(path: Path) -> str:
    """Return where a node listens; raises OSError or ValueError before it does."""
    return str(json.loads(path.read_text())["rpc"])

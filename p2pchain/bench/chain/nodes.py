"""
Four validators as people run them, without gateway and layers, each counting its CPU.

Every node is `p2pchain start` under p2pchain.bench.chain.meter; they end with us.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from genesis.files import load_genesis
from genesis.genesis import Genesis, compute_chain_id
from p2pchain.bench.chain.meter import Counts, load_counts
from p2pchain.bench.lab.lab import VALIDATORS, BenchError, Lab
from p2pchain.bench.lab.procfs import list_children, read_cpu_s
from p2pchain.client import RpcClient, RpcError
from p2pchain.node.home.home import Home

START_S = 60.0
WARM_HEIGHT = 4
"""Connections are there and code is loaded."""
STOP_S = 30.0
POLL_S = 0.2


@dataclass(slots=True)
class MeteredNode:
    """One running validator."""

    home: Home
    process: subprocess.Popen[bytes]
    counts: Path
    rpc: str = ""

    def client(self) -> RpcClient:
        """Return a client with the right to spend."""
        return RpcClient(self.rpc, self.home.load_api_token(), timeout_s=60)

    def read_counts(self) -> Counts:
        """Return what it has used, as of its last final block."""
        return load_counts(self.counts)

    def read_cpu_s(self) -> float:
        """Return the CPU seconds of the process and of its workers."""
        pids = [self.process.pid, *list_children(self.process.pid)]
        return sum(read_cpu_s(pid) for pid in pids)


@dataclass(slots=True)
class MeteredNetwork:
    """The running validators."""

    nodes: list[MeteredNode]
    genesis: Genesis

    @property
    def chain_id(self) -> bytes:
        """Of the chain."""
        return compute_chain_id(self.genesis)

    @property
    def layer_shards(self) -> tuple[int, ...]:
        """All but the root shard."""
        return self.genesis.layout.shard_ids[1:]

    def get_height(self) -> int:
        """Return the final height of the first node."""
        return int(RpcClient(self.nodes[0].rpc).call("status")["height"])

    def wait_height(self, height: int) -> None:
        """Wait until every node has a height."""
        deadline = time.monotonic() + START_S
        for node in self.nodes:
            while not self._has_height(node, height):
                if time.monotonic() > deadline:
                    said = (node.home.path / "node.log").read_text()[-2000:]
                    raise BenchError(f"no height {height} in {START_S:.0f} s: {said}")
                time.sleep(POLL_S)

    def read_cpu_s(self) -> float:
        """Return the CPU seconds of all nodes."""
        return sum(node.read_cpu_s() for node in self.nodes)

    @staticmethod
    def _has_height(node: MeteredNode, height: int) -> bool:
        if node.process.poll() is not None:
            said = (node.home.path / "node.log").read_text()[-2000:]
            raise BenchError(
                f"a node ended with code {node.process.returncode}: {said}"
            )
        try:
            if not node.rpc:
                node.rpc = json.loads(node.home.runtime.read_text())["rpc"]
            return int(RpcClient(node.rpc).call("status")["height"]) >= height
        except (FileNotFoundError, RpcError):
            return False


@contextmanager
def open_nodes(lab: Lab, name: str) -> Iterator[MeteredNetwork]:
    """Run four validators in the folder `name` inside the block."""
    folder = lab.create(name, layers="")
    lab.report(f"starting {name}")
    genesis = load_genesis(folder / "genesis.json")
    read_end, write_end = os.pipe()
    network = MeteredNetwork([], genesis)
    try:
        for index in range(VALIDATORS):
            home = Home.open(folder / f"node{index}")
            counts = home.path / "counts.json"
            with (home.path / "node.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "p2pchain.bench.chain.meter", str(counts),
                     "--home", str(home.path), "start", "--parent-fd", str(read_end)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    pass_fds=(read_end,), start_new_session=True,
                )  # fmt: skip
            network.nodes.append(MeteredNode(home, process, counts))
        network.wait_height(WARM_HEIGHT)
        yield network
    finally:
        for node in network.nodes:
            node.process.terminate()
        for node in network.nodes:
            try:
                node.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()
        os.close(read_end)
        os.close(write_end)

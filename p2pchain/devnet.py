"""
A whole network on this machine: one process per node, as its users would run it.

Every node is `p2pchain start --home ...`; nothing here knows more of it than a person
would.  The network is READY when every node says so: layers loaded and self-tested,
blocks final, providers registered and a route from the first layer to the last.

A node that ends by itself stays down, so that what a network does without it can be
seen; its command to start it again is printed.  Nodes hold the read end of a pipe of
ours and stop when it closes, so none is left behind, however we end.
"""

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import trio

from p2pchain.api.status import StageState
from p2pchain.client import RpcClient, RpcError
from p2pchain.errors import NodeFailed
from p2pchain.node.home.config import Config
from p2pchain.node.home.home import Home

READY_TIMEOUT_S = 180.0
"""Loading a large model from a slow disk takes minutes; more means it hangs."""
STOP_TIMEOUT_S = 20.0
"""What a node gets to drain and close its store before it is killed."""
POLL_S = 0.2

Report = Callable[[str], None]


@dataclass(slots=True)
class NodeProcess:
    """One running node."""

    home: Home
    config: Config
    process: trio.Process
    rpc: str = ""
    """URL of its RPC once it listens."""
    stage_pid: int | None = None
    """Its worker: the layers' on a validator, the requester's on a gateway."""

    @property
    def name(self) -> str:
        """The node's name."""
        return self.config.name

    def read_log_tail(self, lines: int = 12) -> str:
        """Return the last lines that the node logged."""
        try:
            text = (self.home.path / "node.log").read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def build_summary(self) -> dict[str, Any]:
        """Return what `devnet --json` says of this node."""
        return {
            "name": self.name,
            "pid": self.process.pid,
            "rpc": self.rpc,
            "home": str(self.home.path),
            "stage_pid": self.stage_pid,
            "layers": self.config.layers or None,
        }


@dataclass(slots=True)
class Devnet:
    """The running processes, validators first, the gateway last."""

    nodes: list[NodeProcess]

    @property
    def gateway(self) -> NodeProcess:
        """The node that offers /v1."""
        return next(node for node in self.nodes if node.config.gateway)

    def build_summary(self) -> dict[str, Any]:
        """Return the JSON document that says READY."""
        return {
            "api": self.gateway.rpc,
            "nodes": [node.build_summary() for node in self.nodes],
        }


@asynccontextmanager
async def open_devnet(homes: list[Path], report: Report) -> AsyncIterator[Devnet]:
    """Start a node for every home, wait until all are READY, stop them at the end.

    Args:
        homes: Folders made by `create_network`.
        report: Takes one line of progress at a time.

    Raises:
        NodeFailed: A node ended, never will be READY or was not in time; quotes its
            log.
    """
    read_end, write_end = os.pipe()
    devnet = Devnet([])
    try:
        async with trio.open_nursery() as nursery:
            try:
                for path in homes:
                    devnet.nodes.append(await _start(Home.open(path), read_end))
                with trio.move_on_after(READY_TIMEOUT_S) as deadline:
                    for node in devnet.nodes:
                        await _wait_listening(node)
                    await _wait_ready(devnet, report)
                if deadline.cancelled_caught:
                    raise NodeFailed(
                        f"not ready within {READY_TIMEOUT_S:.0f} s; the gateway says:\n"
                        + devnet.gateway.read_log_tail()
                    )
                for node in devnet.nodes:
                    nursery.start_soon(_watch, node, report)
                yield devnet
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await _stop(devnet.nodes)
    finally:
        os.close(read_end)
        os.close(write_end)


async def _start(home: Home, parent_fd: int) -> NodeProcess:
    home.runtime.unlink(missing_ok=True)
    with (home.path / "node.log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "p2pchain", "--home", str(home.path), "start",
             "--parent-fd", str(parent_fd)],
            stdin=None, stdout=log, stderr=STDOUT, pass_fds=(parent_fd,),
            start_new_session=True,
        )  # fmt: skip
    return NodeProcess(home, home.load_config(), process)


async def _wait_listening(node: NodeProcess) -> None:
    while not node.home.runtime.is_file():
        _require_alive(node)
        await trio.sleep(POLL_S)
    node.rpc = json.loads(node.home.runtime.read_text())["rpc"]


async def _wait_ready(devnet: Devnet, report: Report) -> None:
    said = ""
    while True:
        missing = []
        for node in devnet.nodes:
            _require_alive(node)
            reason = await _get_unready_reason(node)
            if reason:
                missing.append(f"{node.name}: {reason}")
        if not missing:
            return
        if missing[0] != said:
            said = missing[0]
            report(f"waiting for {said}")
        await trio.sleep(POLL_S)


async def _get_unready_reason(node: NodeProcess) -> str:
    try:
        status = await trio.to_thread.run_sync(RpcClient(node.rpc).call, "status")
    except RpcError as error:
        return str(error)
    for stage in status["stages"]:
        node.stage_pid = stage["pid"]
        if stage["state"] == StageState.FAILED:
            # Of its model, so that no restart mends it.
            raise NodeFailed(
                f"{node.name}: its {stage['role']} worker cannot start: "
                f"{stage['detail']}"
            )
    return "" if status["ready"] else status["waiting_for"] or "the first final block"


def _require_alive(node: NodeProcess) -> None:
    code = node.process.poll()
    if code is not None:
        raise NodeFailed(
            f"{node.name} ended with code {code}; the end of its log:\n"
            + node.read_log_tail()
        )


async def _watch(node: NodeProcess, report: Report) -> None:
    code = await node.process.wait()
    report(
        f"{node.name} (process {node.process.pid}) ended with code {code}; start it "
        f"again with: p2pchain --home {node.home.path} start"
    )


async def _stop(nodes: list[NodeProcess]) -> None:
    for node in nodes:
        if node.process.poll() is None:
            node.process.terminate()
    with trio.move_on_after(STOP_TIMEOUT_S):
        for node in nodes:
            await node.process.wait()
    for node in nodes:
        if node.process.poll() is None:
            node.process.kill()
            await node.process.wait()

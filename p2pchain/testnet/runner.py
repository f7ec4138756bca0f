"""
One run of a manifest, from making homes to the report.

    homes -> relays -> nodes -> load and steps, by height -> all quiet -> checks -> end

Whatever goes wrong, all processes are ended and the report says why.
"""

import time
from pathlib import Path
from typing import Any

import trio

from p2pchain.client import RpcError
from p2pchain.errors import find_cause
from p2pchain.testnet.checks import Finding, run_checks
from p2pchain.testnet.homes import create_homes
from p2pchain.testnet.load import Load
from p2pchain.testnet.manifest import Manifest, Node
from p2pchain.testnet.network import Testnet, open_testnet
from p2pchain.testnet.perform import perform
from p2pchain.testnet.report import Report
from p2pchain.testnet.stakes import bring_back
from p2pchain.testnet.steps import Equivocate, Join, Leave
from p2pchain.testnet.timeline import Say, Timeline
from primitives.errors import P2PChainError


async def run_manifest(manifest: Manifest, folder: Path, say: Say) -> Report:
    """Run a manifest with homes in `folder` and return what it came to.

    Args:
        manifest: What to do.
        folder: Empty or new; stays, for the logs in it.
        say: Takes a line of the timeline at a time.

    Raises:
        P2PChainError: The run could not begin.
    """
    timeline = Timeline(say)
    timeline.note("", f"making {len(manifest.nodes)} homes in {folder}")
    now_ms = time.time_ns() // 1_000_000
    homes = await trio.to_thread.run_sync(create_homes, manifest, folder, now_ms)
    run = _Run(manifest, folder, timeline)
    try:
        async with open_testnet(homes, timeline) as testnet:
            await run.run(testnet)
    except* P2PChainError as group:
        run.failure = str(find_cause(group))
        timeline.note("", f"FAILED: {run.failure.splitlines()[0]}")
    return run.build_report()


class _Run:
    """What is known of a run, also when it breaks off."""

    def __init__(self, manifest: Manifest, folder: Path, timeline: Timeline) -> None:
        self._manifest = manifest
        self._folder = folder
        self._timeline = timeline
        self._testnet: Testnet | None = None
        self._load: Load | None = None
        self._load_s = 0.0
        self._voting: dict[str, bool] = {}
        self._findings: list[Finding] = []
        self.failure = ""

    async def run(self, testnet: Testnet) -> None:
        """Do everything that the manifest says.

        Raises:
            TestnetFailed: The network did not bear it.
        """
        self._testnet = testnet
        self._timeline.note("", f"{len(testnet.nodes)} nodes run")
        load = self._load = Load(testnet)
        started = time.monotonic()
        async with trio.open_nursery() as background:
            background.start_soon(load.run)
            async with trio.open_nursery() as steps:
                for node in self._manifest.nodes:
                    if node.start_at:
                        steps.start_soon(_start_late, testnet, node)
                for step in self._manifest.steps:
                    steps.start_soon(perform, testnet, step)
                steps.start_soon(testnet.wait_height, self._manifest.blocks)
            await self._bring_back(testnet)
            load.stop()
            self._load_s = time.monotonic() - started
        self._timeline.note("", "no transfer under way; checking")
        self._findings = await run_checks(testnet, load)
        self._voting = await _get_voting(testnet)

    async def _bring_back(self, testnet: Testnet) -> None:
        """See that everybody who should vote does."""
        gone = {
            s.node for s in self._manifest.steps if isinstance(s, Leave | Equivocate)
        }
        joined = {s.node for s in self._manifest.steps if isinstance(s, Join)}
        first = {node.name for node in self._manifest.validators}
        self._timeline.note("", "all steps done; waiting for everybody's votes")
        async with trio.open_nursery() as nursery:
            for name in sorted((first | joined) - gone):
                nursery.start_soon(bring_back, testnet, name)

    def build_report(self) -> Report:
        """Return what came of it."""
        return Report(
            name=self._manifest.name,
            seconds=self._timeline.seconds,
            height=self._timeline.height,
            failure=self.failure,
            findings=tuple(self._findings),
            nodes=tuple(self._summarise_nodes()),
            load=self._summarise_load(),
            timeline=tuple(self._timeline.entries),
            folder=str(self._folder),
        )

    def _summarise_nodes(self) -> list[dict[str, Any]]:
        if self._testnet is None:
            return []
        summaries = []
        for name, node in self._testnet.nodes.items():
            status = self._testnet.statuses.get(name, {})
            summary = node.build_summary() | {
                key: status.get(key, "-") for key in ("height", "view", "peers")
            }
            summaries.append(summary | {"voting": self._voting.get(name, False)})
        return summaries

    def _summarise_load(self) -> dict[str, Any]:
        if self._load is None:
            return {"signed": 0, "final": 0, "expired": 0, "per_s": 0.0}
        final = len(self._load.book.settled)
        return {
            "signed": self._load.started,
            "final": final,
            "expired": self._load.book.expired,
            "per_s": final / max(1.0, self._load_s),
        }


async def _start_late(testnet: Testnet, node: Node) -> None:
    """Make a home and start a node in it when its height has come."""
    await testnet.wait_height(node.start_at)
    testnet.timeline.note(node.name, "init --genesis FILE, and start")
    await trio.to_thread.run_sync(testnet.homes.create_late, node)
    await testnet.start_node(node.name)
    started = trio.current_time()
    height = await testnet.wait_caught_up(node.name)
    seconds = trio.current_time() - started
    testnet.timeline.note(node.name, f"synced to height {height} in {seconds:.1f} s")


async def _get_voting(testnet: Testnet) -> dict[str, bool]:
    voting = {}
    for name, node in testnet.nodes.items():
        if node.rpc is not None:
            try:
                state = await node.rpc.call("consensus_state")
            except RpcError:
                continue
            voting[name] = bool(state["is_voting"])
    return voting

"""
A running test network: its processes, and what their RPC tells while it runs.

Watching is checking: a height that two nodes tell different blocks of, a final height
that falls, a process that ends unasked and a chain that stands still end the run at
once, with what is known then.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from os import close, pipe
from typing import Any

import trio

from p2pchain.client import RpcError
from p2pchain.testnet.errors import Stalled, StepFailed, TestnetFailed
from p2pchain.testnet.homes import Homes
from p2pchain.testnet.manifest import Manifest
from p2pchain.testnet.process import NodeProcess
from p2pchain.testnet.rpc import Json, NodeRpc
from p2pchain.testnet.timeline import Timeline

POLL_S = 0.5
"""Between two looks at a node; a call costs it 5 ms."""
ASK_TRIES = 60
"""Half a minute, in which all nodes may be down at once."""


class Testnet:
    """The processes of one run."""

    __test__ = False  # its name is no test's

    def __init__(self, homes: Homes, timeline: Timeline, parent_fd: int) -> None:
        self.homes = homes
        self.timeline = timeline
        self.nodes: dict[str, NodeProcess] = {}
        """Those that were started at least once, by name."""
        self.blocks: dict[int, tuple[str, str]] = {}
        """Block hash and who told it first, by final height."""
        self.heights: dict[str, int] = {}
        """Of each node when it was last asked."""
        self._asked_at: dict[str, float] = {}
        """When that was, on trio's clock."""
        self.statuses: dict[str, Json] = {}
        self.wallets: defaultdict[bytes, trio.Lock] = defaultdict(trio.Lock)
        """Held while a transaction of the account is under way, by address."""
        self._parent_fd = parent_fd
        self._faults = 0
        self._grown = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def manifest(self) -> Manifest:
        """What is being run."""
        return self.homes.manifest

    @property
    def height(self) -> int:
        """The highest final height that any node told of."""
        return self.timeline.height

    def get_rpcs(self) -> list[NodeRpc]:
        """Return nodes to ask, those of the greatest height first."""
        reachable = [node for node in self.nodes.values() if node.is_reachable]
        reachable.sort(key=lambda node: -self.heights.get(node.name, 0))
        return [node.rpc for node in reachable if node.rpc is not None]

    async def ask(self, method: str, **params: Any) -> Any:
        """Return what the first node that answers says, the highest one first.

        Raises:
            StepFailed: No node answers, or all refuse.
        """
        reason = "none runs"
        for _ in range(ASK_TRIES):
            for rpc in self.get_rpcs():
                try:
                    return await rpc.call(method, **params)
                except RpcError as error:
                    reason = str(error)
            await trio.sleep(POLL_S)
        raise StepFailed(f"no node answers {method}: {reason}")

    async def start_node(self, name: str) -> None:
        """Start a node for the first time and watch it from now on."""
        home = self.homes.open(name)
        node = self.nodes[name] = NodeProcess(name, home, self._parent_fd)
        await node.start()
        assert self._nursery is not None
        self._nursery.start_soon(self._watch, node)

    def forget_height(self, name: str) -> None:
        """Allow a node's height to fall: its chain was deleted."""
        self.heights.pop(name, None)

    @contextmanager
    def disturb(self) -> Iterator[None]:
        """Tell the watch that heights may stand still inside the block."""
        self._faults += 1
        try:
            yield
        finally:
            self._faults -= 1

    async def wait_height(self, height: int) -> None:
        """Return once any node has finalized `height`."""
        while self.height < height:
            await self._grown.wait()

    async def wait_started(self, name: str) -> None:
        """Return once a node has been started for the first time."""
        while name not in self.nodes or self.nodes[name].restarts < 0:
            await trio.sleep(POLL_S)

    async def wait_caught_up(self, name: str) -> int:
        """Return the height of a node once it is where the network is now.

        Raises:
            Stalled: It makes no step in `stall_s`.
        """
        target = self.height
        best, since = -1, trio.current_time()
        started = since
        while True:
            height = self.heights.get(name, 0)
            # An answer from before a restart says nothing.
            if height >= target and self._asked_at.get(name, 0) > started:
                return height
            if height > best:
                best, since = height, trio.current_time()
            elif trio.current_time() > since + self.manifest.stall_s:
                raise Stalled(
                    f"{name} stays at height {height}, the network had {target}; its "
                    f"log:\n{self.nodes[name].read_log_tail()}"
                )
            await trio.sleep(POLL_S / 2)

    async def _watch(self, node: NodeProcess) -> None:
        """Ask one node again and again."""
        while True:
            node.require_alive()
            if node.is_reachable and node.rpc is not None:
                rpc, asked_at = node.rpc, trio.current_time()
                try:
                    status = await rpc.call("status")
                except RpcError:
                    pass  # it ends, or is busy; the stall watch knows how long
                else:
                    # What was asked before a restart may be answered after a wipe.
                    if node.rpc is rpc:
                        self._asked_at[node.name] = asked_at
                        self._take(node.name, status)
            await trio.sleep(POLL_S)

    def _take(self, name: str, status: Json) -> None:
        height, block_hash = int(status["height"]), str(status["block_hash"])
        self.statuses[name] = status
        before = self.heights.get(name, 0)
        if height < before:
            raise TestnetFailed(
                f"{name} has had final height {before} and now has {height}"
            )
        self.heights[name] = height
        known, teller = self.blocks.setdefault(height, (block_hash, name))
        if known != block_hash:
            raise TestnetFailed(
                f"fork at height {height}: {teller} has {known}, {name} {block_hash}"
            )
        if height > self.timeline.height:
            self.timeline.height = height
            self._grown.set()
            self._grown = trio.Event()

    async def _watch_progress(self) -> None:
        """Raise Stalled when heights stand still and nothing disturbs them."""
        best, since = -1, trio.current_time()
        while True:
            if self._faults or self.height > best:
                best, since = self.height, trio.current_time()
            elif trio.current_time() > since + self.manifest.stall_s:
                raise Stalled(
                    f"no block after height {self.height} for "
                    f"{self.manifest.stall_s:.0f} s; " + self.describe()
                )
            await trio.sleep(POLL_S)

    def describe(self) -> str:
        """Return where every node stands, for messages."""
        parts = []
        for name, node in self.nodes.items():
            state = "paused" if node.is_paused else "up" if node.is_running else "down"
            status = self.statuses.get(name, {})
            parts.append(
                f"{name} {state} at {status.get('height')} view {status.get('view')} "
                f"peers {status.get('peers')}"
            )
        return "; ".join(parts)


@asynccontextmanager
async def open_testnet(homes: Homes, timeline: Timeline) -> AsyncIterator[Testnet]:
    """Run relays and the nodes of the start; end every process with the block.

    Raises:
        TestnetFailed: Also out of the block, when the network does something wrong.
    """
    read_end, write_end = pipe()
    testnet = Testnet(homes, timeline, read_end)
    try:
        async with trio.open_nursery() as nursery:
            testnet._nursery = nursery
            await nursery.start(homes.relays.run)
            try:
                async with trio.open_nursery() as starting:
                    for node in homes.manifest.nodes:
                        if not node.start_at:
                            starting.start_soon(testnet.start_node, node.name)
                nursery.start_soon(testnet._watch_progress)
                yield testnet
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await _end_all(testnet)
    finally:
        close(read_end)
        close(write_end)


async def _end_all(testnet: Testnet) -> None:
    async with trio.open_nursery() as nursery:
        for node in testnet.nodes.values():
            nursery.start_soon(node.end)

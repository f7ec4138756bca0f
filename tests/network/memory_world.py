"""A small world: nodes in one process, streams in memory, time on a virtual clock."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from trio.testing import MockClock, memory_stream_pair

from network.endpoint import Endpoint, PeerId
from network.errors import ListenFailed
from network.network import Network
from network.params import NetworkParams
from network.topics import Topic, Verdict
from primitives.keys import SecretKey

CHAIN = b"a chain of tests"


def run(main: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run `main` to its end; an hour of virtual time is a hang."""

    async def bounded() -> None:
        with trio.fail_after(3600):
            await main(*args)

    trio.run(bounded, clock=MockClock(autojump_threshold=0))


async def settle() -> None:
    """Let everything happen that happens without time passing."""
    await trio.testing.wait_all_tasks_blocked()


@dataclass(eq=False)
class Wire:
    """One connection, which can be cut, or frozen without anybody noticing."""

    dialler: trio.StapledStream
    listener: trio.StapledStream

    def cut(self) -> None:
        for end in (self.dialler, self.listener):
            end.send_stream.send_all_hook = _break
            end.receive_stream.put_eof()

    def freeze(self) -> None:
        for end in (self.dialler, self.listener):
            end.send_stream.send_all_hook = None
            end.send_stream.close_hook = None

    def block(self, end: trio.StapledStream) -> None:
        """From now on `end` cannot send: the other side does not read."""
        end.send_stream.send_all_hook = trio.sleep_forever


async def _break() -> None:
    raise trio.BrokenResourceError


class MemoryNet:
    """The wires between all nodes."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.doors: dict[int, Door] = {}
        self.dials = 0
        self.is_down = False

    def build_transport(self, address: str) -> "MemoryTransport":
        return MemoryTransport(self, address)


@dataclass
class MemoryTransport:
    net: MemoryNet
    address: str

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.net.dials += 1
        door = self.net.doors.get(port)
        if door is None or door.accept is None or self.net.is_down:
            raise ConnectionRefusedError(f"nobody at port {port}")
        ours, theirs = memory_stream_pair()
        self.net.wires.append(Wire(ours, theirs))
        door.nursery.start_soon(door.accept, theirs, self.address)
        return ours

    async def listen(self, host: str, port: int) -> "Door":
        await trio.lowlevel.checkpoint()
        port = port or 1000 + len(self.net.doors)
        if port in self.net.doors and self.net.doors[port].accept is not None:
            raise ListenFailed(f"port {port} is in use")
        door = self.net.doors[port] = Door(self.net, port)
        return door


@dataclass
class Door:
    net: MemoryNet
    port: int
    accept: Callable[[trio.abc.Stream, str], Awaitable[None]] | None = None
    nursery: trio.Nursery | None = None

    async def serve(self, accept, nursery: trio.Nursery) -> None:
        self.accept, self.nursery = accept, nursery
        try:
            await trio.sleep_forever()
        finally:
            self.accept = None


class Node:
    """A network with the things a test wants to know."""

    def __init__(
        self,
        net: MemoryNet,
        name: str,
        *,
        chain_id: bytes = CHAIN,
        params: NetworkParams | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.network = Network(
            node_key=SecretKey(name.encode().ljust(32, b".")),
            chain_id=chain_id,
            params=params,
            transport=net.build_transport(address),
        )
        self.name = name
        self.port = port
        self.received: list[tuple[PeerId, bytes]] = []
        self.events: list[tuple[PeerId, bool]] = []
        self.verdict = Verdict.ACCEPT
        self.network.subscribe(Topic.CONSENSUS, self.check)
        self.network.subscribe(Topic.BLOCKS, self.check)
        self.network.handle_request("echo", self.echo)
        self.network.watch_peers(lambda *event: self.events.append(event))
        self.endpoint: Endpoint | None = None
        self.scope = trio.CancelScope()

    @property
    def peer_id(self) -> PeerId:
        return self.network.peer_id

    async def check(self, sender: PeerId, payload: bytes) -> Verdict:
        self.received.append((sender, payload))
        return self.verdict

    async def echo(self, sender: PeerId, payload: bytes) -> bytes:
        return payload

    async def run(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                self.endpoint = await nursery.start(
                    self.network.run, "127.0.0.1", self.port
                )
                task_status.started()

    def get_peers(self) -> list[PeerId]:
        return [peer.peer_id for peer in self.network.peers()]


@asynccontextmanager
async def open_world(*nodes: Node, connect: bool = True):
    """Run `nodes`; each dials all before it, persistently."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        for index, node in enumerate(nodes if connect else ()):
            for other in nodes[:index]:
                node.network.add_endpoint(other.endpoint, persistent=True)
        await settle()
        yield nursery
        nursery.cancel_scope.cancel()

"""
Relays: every byte between two nodes goes through us, so that we can hold it back.

Theory of operation
-------------------
A firewall rule or a network namespace needs root.  Loopback is a /8, though, and any
process may listen on any address of it.  Nodes have numbers from 1 on, and in a network
whose second byte is N

    127.N.0.j : P_j     is where node j listens
    127.N.i.j : P_j     is where node i dials node j: a relay of ours

The relay dials on from 127.N.j.i.  Node j remembers a peer that came to it by the
address that it sees and the port on which the peer says that it listens; that is
127.N.j.i : P_i, where j dials i.  So also the addresses that nodes learn by themselves
lead through relays, and no way leads around them.

A `Wire` is one direction, whoever dialled.  Closed, it holds bytes, ends of streams and
new connections back and loses none of them: that is TCP over a broken cable.  Nodes
notice by their own pings and time-outs, or do not, when it was short.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import trio

CHUNK_BYTES = 64 * 1024
QUEUED_CHUNKS = 64
"""On the way while a wire delays them: what 100 ms carry at 40 MB/s.  Then the sender
waits, as it would for a full window."""
TIMER_S = 0.0005
"""How late a timer is on average: the system's waits are in whole milliseconds, and
rounded up.  Over several links in a row it would add up."""


@dataclass(slots=True)
class Wire:
    """One direction between two nodes."""

    delay_s: float = 0.0
    _cuts: int = 0
    _mended: trio.Event = field(default_factory=trio.Event)

    def cut(self) -> None:
        """Let nothing pass; faults may overlap, and each one mends its own cut."""
        self._cuts += 1

    def mend(self) -> None:
        """Take one cut back."""
        assert self._cuts > 0
        self._cuts -= 1
        if not self._cuts:
            self._mended.set()
            self._mended = trio.Event()

    async def wait_open(self) -> None:
        """Return while nothing cuts the wire."""
        while self._cuts:
            await self._mended.wait()


class Relays:
    """All relays of one network.

    Args:
        network: Second byte of all addresses, 1 to 254.
        ports: Where each node listens, in order.
        delay_s: Of every wire.
    """

    def __init__(
        self, network: int, ports: Sequence[int], delay_s: float = 0.0
    ) -> None:
        self._network = network
        self._ports = ports
        self._wires = {
            (source, target): Wire(delay_s)
            for source in range(len(ports))
            for target in range(len(ports))
            if source != target
        }

    def get_host(self, node: int) -> str:
        """Return the address at which a node listens."""
        return f"127.{self._network}.0.{node + 1}"

    def get_dialled_host(self, source: int, target: int) -> str:
        """Return the address at which node `source` reaches node `target`."""
        return f"127.{self._network}.{source + 1}.{target + 1}"

    def set_delay(self, delay_s: float) -> None:
        """Let what is sent from now on take so long, on every wire."""
        for wire in self._wires.values():
            wire.delay_s = delay_s

    def cut(
        self, nodes: Iterable[int], *, inwards: bool = True, outwards: bool = True
    ) -> list[Wire]:
        """Cut `nodes` off from all others; returns the wires, for `mend`."""
        inside = set(nodes)
        wires = [
            wire
            for (source, target), wire in self._wires.items()
            if (inwards and source not in inside and target in inside)
            or (outwards and source in inside and target not in inside)
        ]
        for wire in wires:
            wire.cut()
        return wires

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Relay until cancelled.

        Raises:
            OSError: An address is in use.
        """
        async with trio.open_nursery() as nursery:
            for source, target in self._wires:
                await nursery.start(self._listen, source, target)
            task_status.started()

    async def _listen(
        self, source: int, target: int, *, task_status: trio.TaskStatus[None]
    ) -> None:
        host = self.get_dialled_host(source, target)

        async def relay(stream: trio.SocketStream) -> None:
            await self._relay(stream, source, target)

        listeners = await trio.open_tcp_listeners(self._ports[target], host=host)
        task_status.started()
        await trio.serve_listeners(relay, listeners)

    async def _relay(self, near: trio.SocketStream, source: int, target: int) -> None:
        """Carry one connection that node `source` dialled."""
        there = self._wires[source, target]
        back = self._wires[target, source]
        await there.wait_open()
        try:
            far = await trio.open_tcp_stream(
                self.get_host(target),
                self._ports[target],
                local_address=self.get_dialled_host(target, source),
            )
        except OSError:
            return  # nobody listens; closing says so
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(_carry, near, far, there)
            nursery.start_soon(_carry, far, near, back)


async def _carry(
    source: trio.SocketStream, target: trio.SocketStream, wire: Wire
) -> None:
    """Carry bytes and the end of the stream over a wire."""
    sender, receiver = trio.open_memory_channel[tuple[float, bytes]](QUEUED_CHUNKS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read, source, sender, wire)
        nursery.start_soon(_write, target, receiver, wire)


async def _read(
    source: trio.SocketStream,
    sender: trio.MemorySendChannel[tuple[float, bytes]],
    wire: Wire,
) -> None:
    async with sender:
        while True:
            try:
                data = await source.receive_some(CHUNK_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            try:
                await sender.send((trio.current_time() + wire.delay_s, bytes(data)))
            except trio.BrokenResourceError:
                return
            if not data:
                return


async def _write(
    target: trio.SocketStream,
    receiver: trio.MemoryReceiveChannel[tuple[float, bytes]],
    wire: Wire,
) -> None:
    async with receiver:
        async for due, data in receiver:
            await trio.sleep_until(due - TIMER_S)
            await wire.wait_open()
            try:
                if data:
                    await target.send_all(data)
                else:
                    await target.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # Whoever reads here is gone: nor will the other direction get far.
                await target.aclose()
                return

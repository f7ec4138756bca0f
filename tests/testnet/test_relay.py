"""Relays: what passes, what is held back, and that nothing is lost."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio

from p2pchain.testnet.relay import Relays, Wire


@dataclass
class Net:
    """Three nodes that listen and keep who came; connections go through relays."""

    relays: Relays
    ports: list[int]
    accepted: list[trio.MemoryReceiveChannel[trio.SocketStream]] = field(
        default_factory=list
    )

    async def connect(self, source: int, target: int):
        """Return both ends of a connection that `source` dials."""
        near = await trio.open_tcp_stream(
            self.relays.get_dialled_host(source, target), self.ports[target]
        )
        return near, await self.accepted[target].receive()


def find_network() -> tuple[int, list[int]]:
    """Return a second byte of addresses and ports that are free."""
    ports = []
    for index in range(3):
        with socket.socket() as probe:
            probe.bind((f"127.250.0.{index + 1}", 0))
            ports.append(probe.getsockname()[1])
    return 250, ports


@asynccontextmanager
async def open_net(delay_s: float = 0.0) -> AsyncIterator[Net]:
    network, ports = find_network()
    net = Net(Relays(network, ports, delay_s), ports)
    async with trio.open_nursery() as nursery:
        await nursery.start(net.relays.run)
        for index, port in enumerate(ports):
            sender, receiver = trio.open_memory_channel[trio.SocketStream](10)
            net.accepted.append(receiver)

            async def keep(stream, sender=sender):
                await sender.send(stream)
                await trio.sleep_forever()

            listeners = await trio.open_tcp_listeners(
                port, host=net.relays.get_host(index)
            )
            nursery.start_soon(trio.serve_listeners, keep, listeners)
        yield net
        nursery.cancel_scope.cancel()


async def receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = await stream.receive_some()
        assert chunk, "the stream ended"
        data += chunk
    return data


async def is_silent(stream: trio.SocketStream) -> bool:
    """Tell whether nothing comes in a moment; a false yes only weakens a test."""
    with trio.move_on_after(0.05):
        await stream.receive_some(1)
        return False
    return True


def test_bytes_pass_both_ways_and_the_end_too() -> None:
    async def main() -> None:
        async with open_net() as net:
            near, far = await net.connect(0, 1)
            data = bytes(range(256)) * 4096
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.send_all, data)
                assert await receive_exactly(far, len(data)) == data
            await far.send_all(b"answer")
            assert await receive_exactly(near, 6) == b"answer"
            await near.send_eof()
            assert await far.receive_some() == b""
            await far.send_all(b"after the end")
            assert await receive_exactly(near, 13) == b"after the end"

    trio.run(main)


def test_a_peer_is_seen_where_it_can_be_dialled_back() -> None:
    async def main() -> None:
        async with open_net() as net:
            _, far = await net.connect(0, 2)
            address = far.socket.getpeername()[0]
            assert address == net.relays.get_dialled_host(2, 0)

    trio.run(main)


def test_a_cut_holds_bytes_back_and_mending_lets_them_go() -> None:
    async def main() -> None:
        async with open_net() as net:
            near, far = await net.connect(0, 1)
            wires = net.relays.cut([1])
            await near.send_all(b"held")
            await far.send_all(b"back")
            assert await is_silent(far)
            assert await is_silent(near)
            for wire in wires:
                wire.mend()
            assert await receive_exactly(far, 4) == b"held"
            assert await receive_exactly(near, 4) == b"back"

    trio.run(main)


@pytest.mark.parametrize("inwards", [True, False])
def test_a_one_way_cut_lets_the_other_way_pass(inwards: bool) -> None:
    async def main() -> None:
        async with open_net() as net:
            near, far = await net.connect(0, 1)
            net.relays.cut([1], inwards=inwards, outwards=not inwards)
            quiet, open_ = (far, near) if inwards else (near, far)
            await near.send_all(b"x")
            await far.send_all(b"x")
            assert await receive_exactly(open_, 1) == b"x"
            assert await is_silent(quiet)

    trio.run(main)


def test_a_group_that_is_cut_off_stays_together() -> None:
    async def main() -> None:
        async with open_net() as net:
            net.relays.cut([0, 1])
            near, far = await net.connect(0, 1)
            await near.send_all(b"x")
            assert await receive_exactly(far, 1) == b"x"
            with trio.move_on_after(0.05) as scope:
                await net.connect(0, 2)
            assert scope.cancelled_caught

    trio.run(main)


def test_new_connections_wait_for_the_wire() -> None:
    async def main() -> None:
        async with open_net() as net:
            wires = net.relays.cut([1])
            near = await trio.open_tcp_stream(
                net.relays.get_dialled_host(0, 1), net.ports[1]
            )
            await near.send_all(b"early")
            for wire in wires:
                wire.mend()
            far = await net.accepted[1].receive()
            assert await receive_exactly(far, 5) == b"early"

    trio.run(main)


def test_nobody_listening_is_told_to_the_dialler() -> None:
    async def main() -> None:
        network, ports = find_network()
        relays = Relays(network, ports)
        async with trio.open_nursery() as nursery:
            await nursery.start(relays.run)
            near = await trio.open_tcp_stream(relays.get_dialled_host(0, 1), ports[1])
            with suppress(trio.BrokenResourceError):  # the same, said with a reset
                assert await near.receive_some() == b""
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_lost_end_closes_the_other() -> None:
    async def main() -> None:
        async with open_net() as net:
            near, far = await net.connect(0, 1)
            await near.aclose()
            assert await far.receive_some() == b""

    trio.run(main)


def test_a_delay_does_not_reorder() -> None:
    async def main() -> None:
        async with open_net(delay_s=0.02) as net:
            near, far = await net.connect(2, 0)
            for number in range(20):
                await near.send_all(bytes([number]))
            assert await receive_exactly(far, 20) == bytes(range(20))

    trio.run(main)


def test_overlapping_cuts_are_mended_one_by_one() -> None:
    async def main() -> None:
        wire = Wire()
        wire.cut()
        wire.cut()
        wire.mend()
        with trio.move_on_after(0) as scope:
            await wire.wait_open()
        assert scope.cancelled_caught
        wire.mend()
        await wire.wait_open()

    trio.run(main)

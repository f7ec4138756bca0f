"""Real sockets: a handful of checks that memory streams cannot make."""

import itertools

import pytest
import trio

from network.endpoint import Endpoint
from network.errors import ListenFailed, PeerLost, PeerUnreachable
from network.network import Network
from network.params import NetworkParams
from network.stream import Stream
from network.tcp_stream import TcpStream
from network.topics import MIB, Priority, Topic, Verdict
from primitives.keys import SecretKey

FAST = NetworkParams(redial_min_s=0.01, redial_max_s=0.05)


def run(main, *args: object) -> None:
    async def bounded() -> None:
        with trio.fail_after(60):
            await main(*args)

    trio.run(bounded)


def build(name: str) -> Network:
    key = SecretKey(name.encode().ljust(32, b"."))
    network = Network(node_key=key, chain_id=b"loopback", params=FAST)

    async def echo(peer_id: bytes, payload: bytes) -> bytes:
        return payload

    network.handle_request("echo", echo)
    return network


def test_a_request_over_tcp() -> None:
    async def main() -> None:
        alice, bob = build("a"), build("b")
        async with trio.open_nursery() as nursery:
            await nursery.start(alice.run, "127.0.0.1", 0)
            endpoint = await nursery.start(bob.run, "127.0.0.1", 0)
            alice.add_endpoint(Endpoint.parse(str(endpoint)))
            for size in (0, 1, 100_000, 20 * MIB):
                answer = await alice.request(
                    bob.peer_id, "echo", bytes(size), timeout_s=30
                )
                assert len(answer) == size
            (info,) = bob.peers()
            assert info.direction == "in"
            assert info.endpoint is not None
            assert info.endpoint.host == "127.0.0.1"
            nursery.cancel_scope.cancel()

    run(main)


def test_a_port_in_use_is_a_typed_error() -> None:
    async def main() -> None:
        alice, bob = build("a"), build("b")
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(alice.run, "127.0.0.1", 0)
            with pytest.raises(ListenFailed):
                await bob.run("127.0.0.1", endpoint.port)
            with pytest.raises(ListenFailed):
                await bob.run("192.0.2.1", 0)  # not an address of this machine
            nursery.cancel_scope.cancel()

    run(main)


def test_a_stopped_network_frees_its_port_and_wakes_its_peers() -> None:
    async def main() -> None:
        alice, bob = build("a"), build("b")
        changes: list[tuple[bytes, bool]] = []
        connected = trio.Event()
        alice.watch_peers(lambda *change: (changes.append(change), connected.set()))
        async with trio.open_nursery() as nursery:
            await nursery.start(alice.run, "127.0.0.1", 0)
            async with trio.open_nursery() as inner:
                endpoint = await inner.start(bob.run, "127.0.0.1", 0)
                alice.add_endpoint(endpoint, persistent=True)
                await connected.wait()
                stream = await alice.open_stream(bob.peer_id, "echo")
                inner.cancel_scope.cancel()
            with pytest.raises(PeerLost):
                await stream.receive()
            with pytest.raises(PeerUnreachable):
                await alice.open_stream(bob.peer_id, "echo")
            connected = trio.Event()
            await nursery.start(build("b").run, "127.0.0.1", endpoint.port)
            await connected.wait()
            await alice.request(bob.peer_id, "echo", b"again", timeout_s=10)
            assert changes == [
                (bob.peer_id, True),
                (bob.peer_id, False),
                (bob.peer_id, True),
            ]
            nursery.cancel_scope.cancel()

    run(main)


def test_votes_overtake_weights() -> None:
    """Both ways at once: many megabytes, and votes that do not wait for them."""

    async def main() -> None:
        alice, bob = build("a"), build("b")
        order: list[str] = []

        async def check(peer_id: bytes, payload: bytes) -> Verdict:
            order.append("vote")
            return Verdict.ACCEPT

        async def swallow(peer_id: bytes, stream) -> None:
            await stream.receive()
            order.append("weights")

        bob.subscribe(Topic.CONSENSUS, check)
        bob.handle("weights", swallow)
        async with trio.open_nursery() as nursery:
            await nursery.start(alice.run, "127.0.0.1", 0)
            alice.add_endpoint(await nursery.start(bob.run, "127.0.0.1", 0))
            stream = await alice.open_stream(
                bob.peer_id, "weights", priority=Priority.BULK
            )
            async with trio.open_nursery() as sending:
                sending.start_soon(stream.send, bytes(40 * MIB))
                for number in range(10):
                    await trio.lowlevel.checkpoint()
                    alice.publish(Topic.CONSENSUS, b"%d" % number)
            while len(order) < 11:
                await trio.lowlevel.checkpoint()
            assert order == ["vote"] * 10 + ["weights"]
            nursery.cancel_scope.cancel()

    run(main)


def test_connecting_again_and_again_leaves_nothing_behind() -> None:
    async def main() -> None:
        alice, bob = build("a"), build("b")
        async with trio.open_nursery() as nursery:
            await nursery.start(alice.run, "127.0.0.1", 0)
            alice.add_endpoint(await nursery.start(bob.run, "127.0.0.1", 0))
            before = trio.lowlevel.current_statistics().tasks_living
            for _ in range(50):
                await alice.request(bob.peer_id, "echo", b"", timeout_s=10)
                alice._connections.links[bob.peer_id].end("the test says so")
                while alice.peers() or bob.peers():
                    await trio.lowlevel.checkpoint()
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert trio.lowlevel.current_statistics().tasks_living == before
            assert not bob._connections._all
            assert not bob._gossip._budgets
            assert not bob._serving._running
            nursery.cancel_scope.cancel()

    run(main)


class ShortOfRoom(TcpStream):
    """A socket that takes a few bytes at once, and sometimes none."""

    lengths = itertools.cycle((0, 1, 7, 40))

    def send_now(self, data: bytes) -> int:
        return super().send_now(data[: next(self.lengths)])


def test_what_is_urgent_arrives_in_order_though_little_is_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("network.transport.TcpStream", ShortOfRoom)

    async def main() -> None:
        alice, bob = build("a"), build("b")
        heard: list[bytes] = []

        async def listen(peer_id: bytes, stream: Stream) -> None:
            for _ in range(300):
                heard.append(await stream.receive())
            await stream.send(b"thanks")

        bob.handle("talk", listen)
        async with trio.open_nursery() as nursery:
            await nursery.start(alice.run, "127.0.0.1", 0)
            alice.add_endpoint(await nursery.start(bob.run, "127.0.0.1", 0))
            async with await alice.open_stream(bob.peer_id, "talk") as stream:
                said = [b"%d" % number * (number % 50 + 1) for number in range(300)]
                for number, message in enumerate(said):
                    assert stream.send_now(message, is_urgent=number % 3 > 0)
                    if number % 5 == 0:
                        await trio.lowlevel.checkpoint()
                assert await stream.receive() == b"thanks"
            assert heard == said
            nursery.cancel_scope.cancel()

    run(main)

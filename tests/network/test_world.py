"""Whole networks in memory: who is connected, what is said, who is kept out."""

import itertools

import pytest
import trio
from memory_world import MemoryNet, Node, open_world, run, settle

from network.endpoint import Endpoint
from network.errors import (
    ListenFailed,
    MessageTooBig,
    NetworkStopped,
    PeerLost,
    PeerUnreachable,
    RequestTimeout,
    ResetCode,
    StreamClosed,
    StreamReset,
)
from network.faults import Fault
from network.params import NetworkParams
from network.scores import BAN_S
from network.stream import Stream
from network.topics import KIB, TOPICS, Priority, Topic, TopicParams, Verdict
from primitives.errors import DecodeError, MissingError


def build(names: str, **kwargs) -> tuple[MemoryNet, list[Node]]:
    net = MemoryNet()
    return net, [Node(net, name, **kwargs) for name in names]


# Connections


def test_nodes_connect_and_say_who_they_are() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        async with open_world(alice, bob):
            (info,) = bob.network.peers()
            assert info.peer_id == alice.peer_id
            assert info.direction == "out"
            assert info.endpoint == alice.endpoint
            (info,) = alice.network.peers()
            assert info.direction == "in"
            assert info.endpoint == bob.endpoint
            assert info.rtt_ms is not None
            assert info.bytes_in > 0
            assert info.score == 0
            assert alice.events == [(bob.peer_id, True)]

    run(main)


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_simultaneous_dials_leave_one_connection(names: str) -> None:
    async def main() -> None:
        net, (alice, bob) = build(names)
        async with open_world(alice, bob, connect=False):
            alice.network.add_endpoint(bob.endpoint, persistent=True)
            bob.network.add_endpoint(alice.endpoint, persistent=True)
            await settle()
            assert net.dials == 2
            assert await alice.network.request(
                bob.peer_id, "echo", b"at once", timeout_s=1
            )
            await trio.sleep(10)
            (ours,), (theirs,) = alice.network.peers(), bob.network.peers()
            smaller = min(alice.peer_id, bob.peer_id)
            dialler = "out" if smaller == alice.peer_id else "in"
            assert (ours.direction, theirs.direction) == (
                dialler,
                "in" if dialler == "out" else "out",
            )
            assert net.dials == 2
            assert alice.events == [(bob.peer_id, True)]

    run(main)


def test_a_stream_survives_the_loss_of_its_twin_connection() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        done = []

        async def slow(peer_id, stream) -> None:
            while True:
                await stream.send(await stream.receive())

        for node in (alice, bob):
            node.network.handle("slow", slow)

        async def talk(node: Node, other: Node) -> None:
            async with await node.network.open_stream(other.peer_id, "slow") as stream:
                for number in range(20):
                    await stream.send(b"%d" % number)
                    assert await stream.receive() == b"%d" % number
                    await trio.sleep(0.4)
            done.append(node)

        async with open_world(alice, bob, connect=False) as nursery:
            alice.network.add_endpoint(bob.endpoint)
            bob.network.add_endpoint(alice.endpoint)
            nursery.start_soon(talk, alice, bob)
            nursery.start_soon(talk, bob, alice)
            await trio.sleep(30)
            assert len(done) == 2

    run(main)


def test_nodes_of_different_chains_stay_apart() -> None:
    async def main() -> None:
        net = MemoryNet()
        alice, bob = Node(net, "a"), Node(net, "b", chain_id=b"another")
        async with open_world(alice, bob, connect=False):
            bob.network.add_endpoint(alice.endpoint)
            with pytest.raises(PeerUnreachable, match="another chain"):
                await bob.network.open_stream(alice.peer_id, "echo")
            assert alice.get_peers() == []

    run(main)


def test_errors_of_dialling() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        with pytest.raises(NetworkStopped):
            await alice.network.open_stream(bob.peer_id, "echo")
        async with open_world(alice, bob, connect=False):
            assert alice.endpoint is not None
            with pytest.raises(PeerUnreachable, match="no endpoint"):
                await alice.network.open_stream(bob.peer_id, "echo")
            with pytest.raises(PeerUnreachable, match="this node"):
                await alice.network.open_stream(alice.peer_id, "echo")
            alice.network.add_endpoint(Endpoint(bob.peer_id, "127.0.0.1", 9))
            with pytest.raises(PeerUnreachable, match="nobody"):
                await alice.network.open_stream(bob.peer_id, "echo")
            nobody = Endpoint(b"n" * 32, "127.0.0.1", bob.endpoint.port)
            alice.network.add_endpoint(nobody)
            with pytest.raises(PeerUnreachable, match="answered instead"):
                await alice.network.open_stream(nobody.peer_id, "echo")
            itself = Endpoint(b"n" * 32, "127.0.0.1", alice.endpoint.port)
            alice.network.add_endpoint(itself)
            with pytest.raises(PeerUnreachable):
                await alice.network.open_stream(nobody.peer_id, "echo")
            with pytest.raises(ListenFailed):
                await Node(net, "c", port=1000).network.run("127.0.0.1", 1000)

    run(main)


def test_a_later_endpoint_is_tried_when_the_first_fails() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        async with open_world(alice, bob, connect=False):
            alice.network.add_endpoint(bob.endpoint)
            alice.network.add_endpoint(Endpoint(bob.peer_id, "127.0.0.1", 9))
            answer = await alice.network.request(
                bob.peer_id, "echo", b"hi", timeout_s=1
            )
            assert answer == b"hi"

    run(main)


def test_a_peer_that_came_to_us_can_be_dialled_back() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        async with open_world(alice, bob, connect=False):
            bob.network.add_endpoint(alice.endpoint)
            await bob.network.request(alice.peer_id, "echo", b"", timeout_s=1)
            net.wires[0].cut()
            await settle()
            assert alice.get_peers() == []
            await alice.network.request(bob.peer_id, "echo", b"", timeout_s=1)

    run(main)


def test_many_who_wait_for_a_peer_share_one_dial() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        answers = []

        async def ask() -> None:
            answers.append(
                await alice.network.request(bob.peer_id, "echo", b"hi", timeout_s=9)
            )

        async with open_world(alice, bob, connect=False):
            alice.network.add_endpoint(bob.endpoint)
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
            assert answers == [b"hi"] * 20
            assert net.dials == 1

    run(main)


def test_a_persistent_peer_is_found_again_after_a_restart() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        async with open_world(alice, bob) as nursery:
            alice.scope.cancel()
            await trio.sleep(60)
            assert bob.get_peers() == []
            dials = net.dials
            reborn = Node(net, "a", port=1000)
            await nursery.start(reborn.run)
            await trio.sleep(15)
            assert bob.get_peers() == [alice.peer_id]
            assert net.dials - dials <= 3
            assert bob.events == [
                (alice.peer_id, True),
                (alice.peer_id, False),
                (alice.peer_id, True),
            ]

    run(main)


def test_a_restart_replaces_a_connection_that_nobody_saw_die() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        async with open_world(alice, bob) as nursery:
            stream = await alice.network.open_stream(bob.peer_id, "echo")
            net.wires[0].freeze()
            bob.scope.cancel()
            await settle()
            reborn = Node(net, "b")
            await nursery.start(reborn.run)
            reborn.network.add_endpoint(alice.endpoint)
            await reborn.network.request(alice.peer_id, "echo", b"", timeout_s=1)
            with pytest.raises(PeerLost, match="anew"):
                await stream.receive()
            await alice.network.request(bob.peer_id, "echo", b"", timeout_s=1)
            assert alice.events == [
                (bob.peer_id, True),
                (bob.peer_id, False),
                (bob.peer_id, True),
            ]

    run(main)


def test_a_half_open_connection_is_found_by_pings() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        async with open_world(alice, bob):
            await trio.sleep(60)
            assert alice.get_peers() == [bob.peer_id]
            net.is_down = True
            net.wires[0].freeze()
            started = trio.current_time()
            stream = await alice.network.open_stream(bob.peer_id, "echo")
            with pytest.raises(PeerLost, match="unanswered"):
                await stream.receive()
            assert 10 <= trio.current_time() - started <= 20
            net.is_down = False
            await trio.sleep(30)
            assert bob.get_peers() == [alice.peer_id]

    run(main)


def test_a_peer_that_does_not_read_is_dropped_and_others_are_served() -> None:
    async def main() -> None:
        net, (alice, bob, carol) = build("abc")
        async with open_world(alice, bob, carol, connect=False):
            bob.network.add_endpoint(alice.endpoint)
            await bob.network.request(alice.peer_id, "echo", b"", timeout_s=1)
            carol.network.add_endpoint(alice.endpoint)
            await carol.network.request(alice.peer_id, "echo", b"", timeout_s=1)
            net.wires[0].block(net.wires[0].listener)
            for number in range(20):
                alice.network.publish(Topic.CONSENSUS, b"%d" % number)
            await settle()
            assert bob.received == []
            assert [payload for _, payload in carol.received][-1] == b"19"
            await trio.sleep(20)
            assert alice.get_peers() == [carol.peer_id]

    run(main)


def test_connections_are_limited_but_persistent_peers_are_not() -> None:
    async def main() -> None:
        net = MemoryNet()
        params = NetworkParams(max_connections=2, max_connections_per_ip=1)
        alice = Node(net, "a", params=params)
        others = [Node(net, n, address=f"10.0.0.{n}") for n in "12345"]
        async with open_world(alice, *others, connect=False):
            for other in others:
                other.network.add_endpoint(alice.endpoint)
            alice.network.add_endpoint(others[4].endpoint, persistent=True)
            await settle()
            await others[0].network.request(alice.peer_id, "echo", b"", timeout_s=1)
            with pytest.raises(PeerUnreachable, match="full"):
                await others[2].network.request(alice.peer_id, "echo", b"", timeout_s=1)
            assert sorted(alice.get_peers()) == sorted(
                [others[0].peer_id, others[4].peer_id]
            )

    run(main)


def test_one_address_gets_few_connections() -> None:
    async def main() -> None:
        net = MemoryNet()
        alice = Node(net, "a", params=NetworkParams(max_connections_per_ip=2))
        others = [Node(net, n, address="10.0.0.1") for n in "123"]
        async with open_world(alice, *others):
            # In open_world the later ones dial: the others know each other too.
            connected = [o for o in others if o.peer_id in alice.get_peers()]
            assert len(connected) == 2

    run(main)


# Gossip


def test_a_message_reaches_everybody_once() -> None:
    async def main() -> None:
        net = MemoryNet()
        nodes = [Node(net, n) for n in "abcdef"]
        async with open_world(*nodes, connect=False):
            for left, right in itertools.pairwise(nodes):  # a line
                left.network.add_endpoint(right.endpoint, persistent=True)
            await settle()
            nodes[0].network.publish(Topic.CONSENSUS, b"vote")
            nodes[0].network.publish(Topic.BLOCKS, b"b" * 300_000)
            await settle()
            for before, node in itertools.pairwise(nodes):
                assert node.received == [
                    (before.peer_id, b"vote"),
                    (before.peer_id, b"b" * 300_000),
                ]
            assert nodes[0].received == []

    run(main)


def test_a_full_mesh_checks_every_message_once() -> None:
    async def main() -> None:
        net = MemoryNet()
        nodes = [Node(net, n) for n in "abcde"]
        async with open_world(*nodes):
            for node in nodes:
                node.network.publish(Topic.CONSENSUS, node.name.encode())
            await settle()
            for node in nodes:
                got = sorted(payload for _, payload in node.received)
                assert got == sorted(n.name.encode() for n in nodes if n is not node)

    run(main)


@pytest.mark.parametrize("verdict", [Verdict.IGNORE, Verdict.REJECT])
def test_what_is_not_accepted_is_not_forwarded(verdict: Verdict) -> None:
    async def main() -> None:
        _, (alice, bob, carol) = build("abc")
        bob.verdict = verdict
        async with open_world(alice, bob, carol, connect=False):
            bob.network.add_endpoint(alice.endpoint, persistent=True)
            bob.network.add_endpoint(carol.endpoint, persistent=True)
            await settle()
            alice.network.publish(Topic.CONSENSUS, b"vote")
            await settle()
            assert bob.received == [(alice.peer_id, b"vote")]
            assert carol.received == []
            scores = {p.peer_id: p.score for p in bob.network.peers()}
            expected = Fault.BAD_MESSAGE if verdict is Verdict.REJECT else 0
            assert scores[alice.peer_id] == pytest.approx(expected)
            assert scores[carol.peer_id] == 0

    run(main)


def test_a_direct_message_is_for_one_peer() -> None:
    async def main() -> None:
        _, (alice, bob, carol) = build("abc")
        async with open_world(alice, bob, carol):
            assert alice.network.send(bob.peer_id, Topic.CONSENSUS, b"for bob")
            assert alice.network.send(bob.peer_id, Topic.CONSENSUS, b"for bob")
            assert not alice.network.send(b"n" * 32, Topic.CONSENSUS, b"nobody")
            await settle()
            assert bob.received == [(alice.peer_id, b"for bob")] * 2
            assert carol.received == []

    run(main)


def test_a_check_that_fails_costs_the_sender_only_for_its_own_fault() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")

        async def check(peer_id: bytes, payload: bytes) -> Verdict:
            raise DecodeError("bad") if payload == b"theirs" else KeyError("ours")

        bob.network.subscribe(Topic.WORK, check)
        async with open_world(alice, bob):
            alice.network.publish(Topic.WORK, b"ours")
            await settle()
            assert bob.network.peers()[0].score == 0
            alice.network.publish(Topic.WORK, b"theirs")
            await settle()
            assert bob.network.peers()[0].score == Fault.BAD_MESSAGE
            # No check: dropped without harm.
            bob.network.publish(Topic.WORK, b"unasked")
            await settle()
            assert alice.network.peers()[0].score == 0

    run(main)


def test_a_slow_check_delays_its_topic_only() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")

        async def check(peer_id: bytes, payload: bytes) -> Verdict:
            await trio.sleep(1000)
            return Verdict.ACCEPT

        bob.network.subscribe(Topic.TRANSACTIONS, check)
        async with open_world(alice, bob):
            alice.network.publish(Topic.TRANSACTIONS, b"slow")
            alice.network.publish(Topic.CONSENSUS, b"vote")
            await settle()
            assert bob.received == [(alice.peer_id, b"vote")]

    run(main)


def test_rejected_messages_lead_to_a_ban_that_expires() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        alice.verdict = Verdict.REJECT
        async with open_world(alice, bob):
            for number in range(5):
                bob.network.publish(Topic.CONSENSUS, b"%d" % number)
                await settle()
            assert alice.get_peers() == []
            await trio.sleep(BAN_S / 2)
            assert alice.get_peers() == []
            with pytest.raises(PeerUnreachable, match="banned"):
                await bob.network.open_stream(alice.peer_id, "echo")
            with pytest.raises(PeerUnreachable, match="it is banned"):
                await alice.network.open_stream(bob.peer_id, "echo")
            await trio.sleep(BAN_S / 2 + 15)
            assert alice.get_peers() == [bob.peer_id]

    run(main)


class Spendthrift:
    """Bob's budget when he is a villain."""

    def take(self, size: int, now: float) -> bool:
        return True


def test_a_flood_is_charged_once_a_second_and_bans_in_the_end() -> None:
    async def main() -> None:
        params = NetworkParams(
            topics={
                **TOPICS,
                Topic.CONSENSUS: TopicParams(Priority.CONSENSUS, KIB, 10, KIB),
            }
        )
        _, (alice, bob) = build("ab", params=params)
        async with open_world(alice, bob):
            link = bob.network._connections.links[alice.peer_id]
            for queue in link._mux._topics.values():
                queue._budget = Spendthrift()
            for second in range(12):
                assert alice.get_peers() == [bob.peer_id]
                for number in range(100):
                    payload = b"%d %d" % (second, number)
                    bob.network.send(alice.peer_id, Topic.CONSENSUS, payload)
                await settle()
                if second == 0:
                    assert len(alice.received) == 60  # four seconds' budget, and half
                    assert alice.network.peers()[0].score == Fault.FLOOD
                if not alice.get_peers():
                    break
                await trio.sleep(1.01)
            assert second == 10

    run(main)


def test_penalties_from_the_node_count() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        async with open_world(alice, bob):
            alice.network.penalize(bob.peer_id, Fault.TIMEOUT)
            assert alice.network.peers()[0].score == Fault.TIMEOUT
            alice.network.penalize(bob.peer_id, Fault.FORGERY)
            await settle()
            assert alice.get_peers() == []

    run(main)


def test_our_own_oversize_is_our_own_error() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        async with open_world(alice, bob):
            with pytest.raises(MessageTooBig):
                alice.network.publish(Topic.CONSENSUS, bytes(257 * KIB))
            with pytest.raises(MessageTooBig):
                alice.network.send(bob.peer_id, Topic.WORK, bytes(257 * KIB))
            stream = await alice.network.open_stream(bob.peer_id, "echo")
            with pytest.raises(MessageTooBig):
                await stream.send(bytes(64 * KIB * KIB + 1))

    run(main)


# Streams and requests


def test_a_conversation() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        heard = []

        async def listen(peer_id: bytes, stream) -> None:
            assert peer_id == stream.peer_id == alice.peer_id
            try:
                while True:
                    heard.append(await stream.receive())
                    await stream.send(bytes(len(heard[-1])))
            except StreamClosed:
                heard.append(b"closed")

        bob.network.handle("talk", listen)
        async with open_world(alice, bob):
            async with await alice.network.open_stream(bob.peer_id, "talk") as stream:
                for size in (0, 1, 100_000, 3_000_000):
                    await stream.send(bytes(size))
                    assert await stream.receive() == bytes(size)
            await settle()
            assert heard[-1] == b"closed"
            with pytest.raises(StreamClosed):
                await stream.send(b"")
            with pytest.raises(StreamClosed):
                await stream.receive()
            await stream.close()
            stream.abort()

    run(main)


def test_a_failing_handler_ends_its_stream_and_nothing_else() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        errors = {
            b"ours": (KeyError("ours"), ResetCode.INTERNAL),
            b"theirs": (DecodeError("theirs"), ResetCode.BAD_REQUEST),
            b"nobody": (MissingError("not here"), ResetCode.NOT_FOUND),
            b"group": (
                ExceptionGroup("", [MissingError(""), DecodeError("")]),
                ResetCode.BAD_REQUEST,
            ),
        }

        async def fail(peer_id: bytes, payload: bytes) -> bytes:
            raise errors[payload][0]

        bob.network.handle_request("fail", fail)
        async with open_world(alice, bob):
            for payload, (_, code) in errors.items():
                with pytest.raises(StreamReset) as caught:
                    await alice.network.request(
                        bob.peer_id, "fail", payload, timeout_s=1
                    )
                assert caught.value.code is code
            assert bob.network.peers()[0].score == pytest.approx(2 * Fault.BAD_MESSAGE)
            with pytest.raises(StreamReset) as caught:
                await alice.network.request(bob.peer_id, "nothing", b"", timeout_s=1)
            assert caught.value.code is ResetCode.UNKNOWN_PROTOCOL
            await alice.network.request(bob.peer_id, "echo", b"", timeout_s=1)

    run(main)


def test_a_request_without_an_answer_times_out_and_is_told() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        told = []

        async def ponder(peer_id: bytes, stream) -> None:
            try:
                await stream.receive()
                await stream.receive()
            except StreamReset as error:
                told.append(error.code)
                raise

        bob.network.handle("ponder", ponder)
        async with open_world(alice, bob):
            with pytest.raises(RequestTimeout):
                await alice.network.request(bob.peer_id, "ponder", b"", timeout_s=3)
            await settle()
            assert told == [ResetCode.CANCELLED]
            assert alice.network._connections.links[bob.peer_id].stream_count == 0
            assert bob.network._connections.links[alice.peer_id].stream_count == 0

    run(main)


async def send_many(stream: Stream) -> None:
    """Send more than one stream may hold unread."""
    for _ in range(10):
        await stream.send(bytes(100_000))


def test_a_lost_connection_wakes_everybody_who_waits() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        outcomes = []
        gone = trio.Event()

        async def hold(peer_id: bytes, stream) -> None:
            try:
                await (stream.receive() if stream.protocol == "wait" else gone.wait())
            except PeerLost:
                outcomes.append("handler")

        bob.network.handle("wait", hold)
        bob.network.handle("hold", hold)

        async def wait() -> None:
            stream = await alice.network.open_stream(bob.peer_id, "wait")
            with pytest.raises(PeerLost):
                await stream.receive()
            outcomes.append("receive")

        async def push() -> None:
            stream = await alice.network.open_stream(bob.peer_id, "hold")
            with pytest.raises(PeerLost):
                await send_many(stream)
            outcomes.append("send")

        async with open_world(alice, bob) as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(push)
            await settle()
            net.wires[0].cut()
            await settle()
            assert sorted(outcomes) == ["handler", "receive", "send"]

    run(main)


def test_opening_streams_while_the_connection_flaps_never_hangs() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        outcomes: list[str] = []

        async def ask(number: int) -> None:
            await trio.sleep(number * 0.01)
            try:
                answer = await alice.network.request(
                    bob.peer_id, "echo", bytes(200_000), timeout_s=30
                )
                assert len(answer) == 200_000
                outcomes.append("answer")
            except (PeerLost, PeerUnreachable, StreamReset) as error:
                outcomes.append(type(error).__name__)

        async def flap() -> None:
            while True:
                await trio.sleep(0.037)
                net.wires[-1].cut()

        async with open_world(alice, bob) as nursery:
            nursery.start_soon(flap)
            async with trio.open_nursery() as asking:
                for number in range(200):
                    asking.start_soon(ask, number)
            assert len(outcomes) == 200
            assert outcomes.count("answer") > 50

    run(main)


def test_a_peer_cannot_keep_many_handlers_running() -> None:
    async def main() -> None:
        net = MemoryNet()
        params = NetworkParams(max_handlers=3)
        alice, bob = Node(net, "a"), Node(net, "b", params=params)

        async def hold(peer_id: bytes, stream) -> None:
            await trio.sleep(100)

        bob.network.handle("hold", hold)
        async with open_world(alice, bob):
            streams = [
                await alice.network.open_stream(bob.peer_id, "hold") for _ in range(4)
            ]
            with pytest.raises(StreamReset) as caught:
                await streams[3].receive()
            assert caught.value.code is ResetCode.BUSY
            # Resetting the streams does not free the handlers; their end does.
            for stream in streams:
                stream.abort()
            again = await alice.network.open_stream(bob.peer_id, "hold")
            with pytest.raises(StreamReset):
                await again.receive()
            await trio.sleep(101)
            again = await alice.network.open_stream(bob.peer_id, "hold")
            with trio.move_on_after(1) as scope:
                await again.receive()
            assert scope.cancelled_caught

    run(main)


def test_a_cancelled_send_happens_wholly_or_not_at_all() -> None:
    async def main() -> None:
        _, (alice, bob) = build("ab")
        heard = []
        go = trio.Event()

        async def listen(peer_id: bytes, stream) -> None:
            await go.wait()
            while True:
                heard.append(len(await stream.receive()))

        bob.network.handle("listen", listen)
        async with open_world(alice, bob):
            stream = await alice.network.open_stream(bob.peer_id, "listen")
            await stream.send(bytes(120_000))
            await stream.send(bytes(120_000))
            for size in (110_000, 90_000):  # the first is begun, the second is not
                with trio.move_on_after(1) as scope:
                    await stream.send(bytes(size))
                assert scope.cancelled_caught
            go.set()
            await stream.send(b"last")
            await settle()
            assert heard == [120_000, 120_000, 110_000, 4]

    run(main)


def test_stopping_wakes_those_who_dial() -> None:
    async def main() -> None:
        net, (alice, bob) = build("ab")
        outcomes = []

        async def ask() -> None:
            try:
                await alice.network.request(bob.peer_id, "echo", b"", timeout_s=99)
            except (PeerUnreachable, PeerLost) as error:
                outcomes.append(str(error))

        async with open_world(alice, bob, connect=False) as nursery:
            alice.network.add_endpoint(bob.endpoint)
            door = net.doors[bob.endpoint.port]
            door.accept = lambda stream, address: trio.sleep_forever()
            nursery.start_soon(ask)
            await settle()
            alice.scope.cancel()
            await settle()
            assert len(outcomes) == 1
            assert "stopped" in outcomes[0]

    run(main)


def test_silent_diallers_are_dropped() -> None:
    async def main() -> None:
        net, (alice,) = build("a")
        async with open_world(alice):
            transport = net.build_transport("10.1.1.1")
            streams = [await transport.dial("", alice.endpoint.port) for _ in range(6)]
            await settle()
            # Two too many from one address are hung up on at once, unread.
            for stream in streams[4:]:
                assert await stream.receive_some(10) == b""
            for stream in streams[:4]:
                assert await stream.receive_some(10) == b""
            assert trio.current_time() == pytest.approx(5.0)

    run(main)

"""Peers that finish the handshake and then misbehave on the wire, byte by byte."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from memory_world import CHAIN, MemoryNet, Node, open_world, run, settle

from network.connect import shake_hands
from network.errors import BadHandshake, GoodbyeCode, HandshakeTimeout, Refused
from network.faults import Fault
from network.frames import (
    MAX_DATA,
    Accept,
    Credit,
    Data,
    End,
    Frame,
    Goodbye,
    News,
    Open,
    Ping,
    Pong,
    decode_frames,
    encode_frame,
)
from network.handshake import Handshake, LocalIdentity
from network.mux import MAX_MESSAGE_BYTES
from network.records import RecordLayer
from network.streams import WINDOW_BYTES
from network.topics import MIB, Topic
from primitives.keys import SecretKey

IDENTITY = LocalIdentity(SecretKey(b"v" * 32), CHAIN, 0)


class Villain:
    """Speaks the protocol by hand."""

    def __init__(self, stream: trio.abc.Stream, records: RecordLayer) -> None:
        self.stream = stream
        self.records = records

    @classmethod
    async def connect(cls, net: MemoryNet, victim: Node, **kwargs) -> "Villain":
        stream = await net.build_transport("10.6.6.6").dial("", victim.endpoint.port)
        handshake = Handshake(initiator=True, identity=IDENTITY, **kwargs)
        _, records = await shake_hands(stream, handshake, None, 5.0)
        return cls(stream, records)

    async def send(self, *frames: Frame) -> None:
        await self.stream.send_all(
            self.records.seal(b"".join(map(encode_frame, frames)))
        )

    async def read_to_the_end(self) -> list[Frame]:
        """Return what the victim says until it hangs up."""
        frames: list[Frame] = []
        while data := await self.stream.receive_some():
            self.records.feed(data)
            while (plaintext := self.records.next_plaintext()) is not None:
                frames += decode_frames(plaintext)
        return frames


def play(main: Callable[[Node, Villain], Awaitable[None]]) -> None:
    """Run `main` with a victim, and see that an honest peer is still served."""

    async def world() -> None:
        net = MemoryNet()
        victim, friend = Node(net, "a"), Node(net, "b")
        async with open_world(victim, friend):
            villain = await Villain.connect(net, victim)
            await main(victim, villain)
            answer = await friend.network.request(
                victim.peer_id, "echo", b"alive", timeout_s=1
            )
            assert answer == b"alive"

    run(world)


def get_points(victim: Node) -> float:
    return victim.network._scores.get_points(IDENTITY.peer_id, trio.current_time())


@pytest.mark.parametrize(
    ("frames", "points"),
    [
        ([News(99, False, 1, b"x")], Fault.PROTOCOL),
        ([News(Topic.CONSENSUS, False, MIB, bytes(MAX_DATA))], Fault.OVERSIZE),
        ([End(7)], Fault.PROTOCOL),
        ([Open(2, "echo")], Fault.PROTOCOL),
        (
            [Open(1, "echo"), Data(1, MAX_MESSAGE_BYTES + 1, bytes(MAX_DATA))],
            Fault.OVERSIZE,
        ),
        (
            [Open(1, "hold"), *[Data(1, MAX_DATA, bytes(MAX_DATA))] * 17],
            Fault.PROTOCOL,
        ),
        ([Open(1, "echo"), Credit(1, 2**32 - 1)], Fault.PROTOCOL),
        ([Accept()], Fault.PROTOCOL),
        ([Ping(0)] * 41_000, Fault.FLOOD),
    ],
)
def test_a_violation_ends_the_connection_and_costs(
    frames: list[Frame], points: int
) -> None:
    assert 17 * MAX_DATA > WINDOW_BYTES

    async def main(victim: Node, villain: Villain) -> None:
        async def hold(peer_id, stream) -> None:
            await trio.sleep_forever()

        victim.network.handle("hold", hold)
        step = 3 if len(frames) < 100 else 3000
        for start in range(0, len(frames), step):
            await villain.send(*frames[start : start + step])
        said = await villain.read_to_the_end()
        assert said[-1] == Goodbye(GoodbyeCode.PROTOCOL)
        assert get_points(victim) == pytest.approx(points)

    play(main)


def test_bytes_that_are_no_frames_cost_too() -> None:
    async def main(victim: Node, villain: Villain) -> None:
        await villain.stream.send_all(villain.records.seal(b"\xffgarbage"))
        assert (await villain.read_to_the_end())[-1] == Goodbye(GoodbyeCode.PROTOCOL)
        assert get_points(victim) == Fault.PROTOCOL

    play(main)


def test_a_tampered_record_ends_the_connection_and_costs_nothing() -> None:
    async def main(victim: Node, villain: Villain) -> None:
        wire = bytearray(villain.records.seal(encode_frame(Ping(1))))
        wire[5] ^= 1
        await villain.stream.send_all(bytes(wire))
        await villain.read_to_the_end()
        assert villain.stream
        assert get_points(victim) == 0
        assert IDENTITY.peer_id not in victim.get_peers()

    play(main)


def test_two_violations_are_a_ban_that_the_next_handshake_hears_of() -> None:
    async def world() -> None:
        net = MemoryNet()
        victim = Node(net, "a")
        async with open_world(victim):
            for _ in range(2):
                villain = await Villain.connect(net, victim)
                await villain.send(End(99))
                said = await villain.read_to_the_end()
            assert said[-1] == Goodbye(GoodbyeCode.BANNED)
            with pytest.raises(Refused) as caught:
                await Villain.connect(net, victim)
            assert caught.value.code is GoodbyeCode.BANNED

    run(world)


def test_failed_handshakes_slow_an_address_down() -> None:
    async def world() -> None:
        net = MemoryNet()
        victim = Node(net, "a")
        async with open_world(victim):
            for _ in range(8):
                stream = await net.build_transport("10.6.6.6").dial("", 1000)
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                while await stream.receive_some():
                    pass
            with pytest.raises(BadHandshake):
                await Villain.connect(net, victim)
            await trio.sleep(6)
            await Villain.connect(net, victim)

    run(world)


def test_a_responder_that_never_accepts_times_out() -> None:
    async def world() -> None:
        ours, theirs = trio.testing.memory_stream_pair()

        async def respond() -> None:
            handshake = Handshake(initiator=False, identity=IDENTITY)
            while not handshake.is_finished:
                await theirs.send_all(handshake.receive(await theirs.receive_some()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(respond)
            friend = LocalIdentity(SecretKey(b"f" * 32), CHAIN, 0)
            handshake = Handshake(initiator=True, identity=friend)
            with pytest.raises(HandshakeTimeout):
                await shake_hands(ours, handshake, None, 5.0)
            assert trio.current_time() == pytest.approx(5.0)

    run(world)


@pytest.mark.parametrize("answer", [[Ping(1)], [Accept(), Ping(1)], []])
def test_a_responder_that_says_something_else_is_refused(answer: list[Frame]) -> None:
    async def world() -> None:
        ours, theirs = trio.testing.memory_stream_pair()

        async def respond() -> None:
            handshake = Handshake(initiator=False, identity=IDENTITY)
            while not handshake.is_finished:
                await theirs.send_all(handshake.receive(await theirs.receive_some()))
            records = handshake.build_records()
            if answer:
                plaintext = b"".join(map(encode_frame, answer))
                await theirs.send_all(records.seal(plaintext))
            else:
                await theirs.send_all(bytes(40))  # no record of ours

        async with trio.open_nursery() as nursery:
            nursery.start_soon(respond)
            friend = LocalIdentity(SecretKey(b"f" * 32), CHAIN, 0)
            handshake = Handshake(initiator=True, identity=friend)
            with pytest.raises(BadHandshake):
                await shake_hands(ours, handshake, None, 5.0)

    run(world)


def test_pongs_nobody_asked_for_change_nothing() -> None:
    async def main(victim: Node, villain: Villain) -> None:
        await villain.send(Pong(10**9), Pong(0))
        await settle()
        info = {peer.peer_id: peer for peer in victim.network.peers()}
        assert info[IDENTITY.peer_id].rtt_ms is None

    play(main)


def test_a_peer_that_answers_no_ping_is_dropped_however_much_it_talks() -> None:
    async def main(victim: Node, villain: Villain) -> None:
        for number in range(30):
            await villain.send(News(Topic.CONSENSUS, False, 1, bytes([number])))
            await trio.sleep(1)
            if IDENTITY.peer_id not in victim.get_peers():
                break
        assert 10 <= number <= 20

    play(main)


def test_a_message_begun_and_never_finished_frees_its_memory() -> None:
    async def main(victim: Node, villain: Villain) -> None:
        async def answer_pings() -> None:
            while data := await villain.stream.receive_some():
                villain.records.feed(data)
                while (plaintext := villain.records.next_plaintext()) is not None:
                    for frame in decode_frames(plaintext):
                        if isinstance(frame, Ping):
                            await villain.send(Pong(frame.token))

        pool = victim.network._connections._pool
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings)
            total = MAX_MESSAGE_BYTES
            await villain.send(Open(1, "echo"), Data(1, total, bytes(MAX_DATA)))
            await settle()
            assert pool.held_bytes == total
            await trio.sleep(600)
            assert pool.held_bytes == 0
            assert IDENTITY.peer_id in victim.get_peers()
            nursery.cancel_scope.cancel()

    play(main)

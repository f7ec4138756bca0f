"""Scheduler, streams and mux without I/O: order, credit, and what breaks them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from network.errors import (
    PeerLost,
    ProtocolViolation,
    ResetCode,
    StreamClosed,
    StreamReset,
    TooManyStreams,
)
from network.faults import Fault
from network.frames import (
    MAX_DATA,
    Accept,
    Credit,
    Data,
    DataMore,
    End,
    Frame,
    Goodbye,
    GoodbyeCode,
    News,
    NewsMore,
    Open,
    Ping,
    Pong,
    Reset,
    decode_frames,
    encode_frame,
)
from network.mux import (
    MAX_MESSAGE_BYTES,
    Event,
    MessageArrived,
    Mux,
    PongArrived,
    SaidGoodbye,
    StreamChanged,
    StreamOpened,
)
from network.params import NetworkParams
from network.reservations import ReservationPool
from network.streams import MESSAGE_COST, WINDOW_BYTES, StreamState
from network.topics import MIB, Priority, ProtocolParams, Topic

PROTOCOLS = {"echo": ProtocolParams(), "small": ProtocolParams(max_message_bytes=100)}
BULK = ProtocolParams(Priority.BULK)


class Pair:
    """Two muxes and the wire between them."""

    def __init__(self, params: NetworkParams | None = None) -> None:
        self.params = params or NetworkParams()
        self.pool = ReservationPool(
            self.params.reserve_bytes, self.params.reserve_bytes_per_peer
        )
        self.alice = self.build(b"b" * 32, initiator=True)
        self.bob = self.build(b"a" * 32, initiator=False)

    def build(self, peer_id: bytes, *, initiator: bool) -> Mux:
        return Mux(
            peer_id,
            initiator=initiator,
            params=self.params,
            pool=self.pool,
            protocols=PROTOCOLS,
        )

    def carry(self, sender: Mux, receiver: Mux, batches: int = 10**6) -> list[Event]:
        events: list[Event] = []
        while sender.has_output() and batches:
            events += receiver.receive(sender.take_batch()[0], 0.0)
            batches -= 1
        return events

    def settle(self) -> list[Event]:
        """Carry both ways until nothing moves; returns what Bob saw."""
        events = []
        while self.alice.has_output() or self.bob.has_output():
            events += self.carry(self.alice, self.bob)
            self.carry(self.bob, self.alice)
        return events

    def open(self, bounds: ProtocolParams = PROTOCOLS["echo"], name: str = "echo"):
        """Return Alice's and Bob's end of a new stream."""
        ours = self.alice.open_stream(name, bounds)
        (event,) = self.settle()
        assert isinstance(event, StreamOpened)
        return ours, event.stream

    def send(self, stream: StreamState, message: bytes) -> None:
        stream.push(message)
        self.alice.wake(stream)


def receive(mux: Mux, *frames: Frame) -> list[Event]:
    return mux.receive(b"".join(map(encode_frame, frames)), 0.0)


def receive_one_by_one(mux: Mux, frames: list[Frame]) -> None:
    for frame in frames:
        receive(mux, frame)


def list_frames(mux: Mux) -> list[Frame]:
    return decode_frames(mux.take_batch()[0])


# Order


def test_a_vote_waits_for_one_frame_of_a_tensor() -> None:
    pair = Pair()
    stream, _ = pair.open()
    pair.send(stream, bytes(200_000))
    list_frames(pair.alice)
    pair.alice.publish(Topic.CONSENSUS, b"vote", False, 0.0)
    assert list_frames(pair.alice)[0] == News(Topic.CONSENSUS, False, 4, b"vote")


def test_classes_go_in_order() -> None:
    pair = Pair()
    bulk, _ = pair.open(BULK)
    stream, _ = pair.open()
    pair.send(bulk, b"weights")
    pair.alice.publish(Topic.TRANSACTIONS, b"transaction", False, 0.0)
    pair.send(stream, b"tensor")
    pair.alice.publish(Topic.BLOCKS, b"block", False, 0.0)
    pair.alice.publish(Topic.CONSENSUS, b"vote", False, 0.0)
    data = [frame.data for frame in list_frames(pair.alice)]
    assert data == [b"vote", b"block", b"tensor", b"transaction", b"weights"]


def test_lower_classes_are_never_starved() -> None:
    pair = Pair()
    bulk, _ = pair.open(BULK)
    pair.send(bulk, bytes(100_000))
    bulk_bytes = other_bytes = 0
    while bulk_bytes < 100_000:
        pair.alice.publish(Topic.BLOCKS, bytes(MAX_DATA), False, other_bytes)
        for frame in list_frames(pair.alice):
            if isinstance(frame, Data | DataMore):
                bulk_bytes += len(frame.data)
            else:
                other_bytes += len(frame.data)
        assert other_bytes < 40 * 100_000
    assert other_bytes > 10 * 100_000


def test_streams_of_a_class_take_turns() -> None:
    pair = Pair()
    one, _ = pair.open()
    two, _ = pair.open()
    pair.send(one, bytes(100_000))
    pair.send(two, bytes(100_000))
    ids = [list_frames(pair.alice)[0].stream_id for _ in range(6)]
    assert ids == [one.stream_id, two.stream_id] * 3


def test_control_goes_first() -> None:
    pair = Pair()
    pair.alice.publish(Topic.CONSENSUS, b"vote", False, 0.0)
    pair.alice.ping(7)
    assert list_frames(pair.alice)[0] == Ping(7)


# Gossip


def test_long_messages_of_topics_are_put_together() -> None:
    pair = Pair()
    block, votes = bytes(range(256)) * 4000, [b"%d" % n for n in range(20)]
    pair.alice.publish(Topic.BLOCKS, block, False, 0.0)
    pair.alice.publish(Topic.BLOCKS, b"", True, 0.0)
    for vote in votes:
        pair.alice.publish(Topic.CONSENSUS, vote, False, 0.0)
    events = pair.settle()
    assert events[:20] == [MessageArrived(Topic.CONSENSUS, False, v) for v in votes]
    assert events[20:] == [
        MessageArrived(Topic.BLOCKS, False, block),
        MessageArrived(Topic.BLOCKS, True, b""),
    ]


def test_the_oldest_message_gives_way_and_a_begun_one_does_not() -> None:
    pair = Pair()
    blocks = [bytes([n]) * (3 * MIB) for n in range(7)]
    pair.alice.publish(Topic.BLOCKS, blocks[0], False, 0.0)
    begun = pair.alice.take_batch()[0]
    stood_s = [
        pair.alice.publish(Topic.BLOCKS, block, False, 5.0) for block in blocks[1:]
    ]
    assert stood_s == [0.0, 0.0, 0.0, 0.0, 5.0, 5.0]  # 16 MiB hold five of them
    assert receive_all(pair, begun) == [blocks[0], *blocks[3:]]


def receive_all(pair: Pair, first: bytes) -> list[bytes]:
    pair.bob.receive(first, 0.0)
    events = pair.settle()
    return [e.payload for e in events if isinstance(e, MessageArrived)]


def test_a_sender_keeps_to_the_budget_of_the_topic() -> None:
    pair = Pair()
    for _ in range(300):
        pair.alice.publish(Topic.BLOCKS, b"", False, 0.0)
        pair.alice.take_batch()
    assert pair.alice.publish(Topic.BLOCKS, b"", False, 0.0) == 0.0
    assert not pair.alice.has_output()
    pair.alice.publish(Topic.BLOCKS, b"", False, 1.0)
    assert pair.alice.has_output()


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        ([News(99, False, 0, b"")], Fault.PROTOCOL),
        ([NewsMore(Topic.BLOCKS, b"x")], Fault.PROTOCOL),
        ([News(Topic.CONSENSUS, False, MIB, bytes(MAX_DATA))], Fault.OVERSIZE),
        ([News(Topic.BLOCKS, False, MIB, bytes(MAX_DATA))] * 2, Fault.PROTOCOL),
        (
            [
                News(Topic.BLOCKS, False, MIB, bytes(MAX_DATA)),
                NewsMore(Topic.BLOCKS, b"a short piece in the middle"),
            ],
            Fault.PROTOCOL,
        ),
        ([Accept()], Fault.PROTOCOL),
        ([Data(1, 4, b"data")], Fault.PROTOCOL),
        ([End(5)], Fault.PROTOCOL),
        ([Credit(2, 5)], Fault.PROTOCOL),
        ([Open(2, "echo")], Fault.PROTOCOL),
        ([Open(0, "echo")], Fault.PROTOCOL),
        ([Open(3, "echo"), Open(1, "echo")], Fault.PROTOCOL),
        ([Open(1, "echo"), Open(1, "echo")], Fault.PROTOCOL),
        ([Open(1, "echo"), DataMore(1, b"x")], Fault.PROTOCOL),
        (
            [Open(1, "echo"), Data(1, MAX_MESSAGE_BYTES + 1, bytes(MAX_DATA))],
            Fault.OVERSIZE,
        ),
        (
            [Open(1, "echo"), *[Data(1, 100_000, bytes(MAX_DATA))] * 2],
            Fault.PROTOCOL,
        ),
        ([Open(1, "echo"), Credit(1, 2**32 - 1)], Fault.PROTOCOL),
    ],
)
def test_violations(frames: list[Frame], fault: Fault) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        receive_one_by_one(Pair().bob, frames)
    assert caught.value.fault is fault


def test_a_flood_of_control_frames_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        receive_one_by_one(Pair().bob, [Ping(1)] * 100_000)
    assert caught.value.fault is Fault.FLOOD


# Streams


def test_messages_go_both_ways_in_order() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    messages = [b"", b"short", bytes(100_000), bytes(1_000_000), b"last"]
    for message in messages:
        pair.send(ours, message)
    assert pair.settle() == [StreamChanged(theirs)] * 5
    assert [theirs.take_message() for _ in range(6)] == [*messages, None]
    theirs.push(b"answer")
    pair.bob.wake(theirs)
    pair.settle()
    assert ours.take_message() == b"answer"


def test_a_reader_who_takes_nothing_holds_the_window_and_no_more() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    message = bytes(100_000)
    for _ in range(10):
        pair.send(ours, message)
    pair.settle()
    assert not ours.is_ready()
    taken = 0
    while theirs.take_message() is not None:
        taken += 1
        pair.settle()
    assert taken == 10
    assert ours.queued_bytes == 0


def test_end_comes_after_all_messages() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    pair.send(ours, b"one")
    ours.end()
    pair.alice.wake(ours)
    pair.settle()
    assert theirs.take_message() == b"one"
    assert isinstance(theirs.error, StreamClosed)
    assert isinstance(ours.error, StreamClosed)
    assert pair.alice.stream_count == pair.bob.stream_count == 0


def test_an_end_waits_for_the_credit_of_what_is_queued() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    for _ in range(4):
        pair.send(ours, bytes(100_000))
    ours.end()
    pair.alice.wake(ours)
    pair.settle()
    assert ours.error is None
    for _ in range(4):
        assert theirs.take_message() is not None
        pair.settle()
    assert isinstance(ours.error, StreamClosed)


def test_a_reset_is_told_and_frees_memory() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    pair.send(ours, bytes(1_000_000))
    pair.carry(pair.alice, pair.bob, batches=2)
    assert pair.pool.held_bytes == 1_000_000
    theirs.reset(ResetCode.INTERNAL)
    assert pair.pool.held_bytes == 0
    pair.settle()
    assert isinstance(ours.error, StreamReset)
    assert ours.error.code is ResetCode.INTERNAL
    assert not ours.error.ours
    assert not pair.alice.has_output()


def test_frames_for_a_stream_that_has_ended_are_ignored() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    theirs.reset(ResetCode.CANCELLED)
    stale = [Data(ours.stream_id, 1, b"x"), Credit(ours.stream_id, 1)]
    assert receive(pair.bob, *stale, End(ours.stream_id)) == []


def test_an_unknown_protocol_is_refused_without_blame() -> None:
    pair = Pair()
    stream = pair.alice.open_stream("nothing", ProtocolParams())
    assert pair.settle() == []
    assert isinstance(stream.error, StreamReset)
    assert stream.error.code is ResetCode.UNKNOWN_PROTOCOL


def test_a_message_above_its_protocols_bound_resets_the_stream() -> None:
    pair = Pair()
    ours, theirs = pair.open(name="small")
    pair.send(ours, bytes(101))
    assert pair.settle() == [StreamChanged(theirs)]
    assert isinstance(ours.error, StreamReset)
    assert ours.error.code is ResetCode.TOO_BIG


def test_data_beyond_the_credit_is_a_violation() -> None:
    pair = Pair()
    ours, _ = pair.open()
    frame = Data(ours.stream_id, MAX_DATA, bytes(MAX_DATA))
    for _ in range(WINDOW_BYTES // (MAX_DATA + MESSAGE_COST)):
        receive(pair.bob, frame)
    with pytest.raises(ProtocolViolation, match="credit"):
        receive(pair.bob, frame)


def test_streams_are_limited_on_both_sides() -> None:
    pair = Pair(NetworkParams(max_streams=2))
    for _ in range(2):
        pair.open()
    with pytest.raises(TooManyStreams):
        pair.alice.open_stream("echo", ProtocolParams())
    assert receive(pair.bob, Open(5, "echo")) == []
    assert list_frames(pair.bob) == [Reset(5, ResetCode.BUSY)]


def test_a_lost_connection_ends_every_stream_and_keeps_what_came() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    pair.send(ours, b"came")
    pair.settle()
    lost = PeerLost(b"a" * 32, "cut")
    assert pair.bob.lose(lost) == [theirs]
    assert theirs.error is lost
    assert theirs.take_message() == b"came"


def test_long_messages_wait_for_memory_in_turn() -> None:
    pair = Pair(NetworkParams(reserve_bytes=MIB, reserve_bytes_per_peer=MIB))
    streams = [pair.open() for _ in range(3)]
    for ours, _ in streams:
        pair.send(ours, bytes(MIB))
    pair.settle()
    done = 0
    while done < 3:
        whole = [theirs for _, theirs in streams if theirs.take_message() is not None]
        assert len(whole) == 1
        done += 1
        pair.settle()
    assert pair.pool.held_bytes == 0


def test_a_message_that_stalls_loses_its_memory() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    pair.send(ours, bytes(10 * MIB))
    pair.carry(pair.alice, pair.bob, batches=1)
    assert pair.bob.reset_stalled(100.0) == []
    assert pair.bob.reset_stalled(160.0) == []
    assert pair.bob.reset_stalled(180.0) == [theirs]
    assert pair.pool.held_bytes == 0


def test_a_message_that_trickles_loses_its_memory_as_well() -> None:
    """What comes bit by bit holds its memory no longer than what does not come."""
    pair = Pair()
    ours, theirs = pair.open()
    pair.send(ours, bytes(10 * MIB))
    now, reset = 100.0, []
    while not reset and pair.alice.has_output():
        pair.carry(pair.alice, pair.bob, batches=1)
        pair.carry(pair.bob, pair.alice)
        reset = pair.bob.reset_stalled(now)
        now += 5.0
    assert reset == [theirs]
    params = NetworkParams()
    allowed_s = params.stall_s + 10 * MIB / params.min_message_rate
    assert now - 100.0 <= allowed_s + 10.0
    assert pair.pool.held_bytes == 0


def test_an_unread_message_is_our_own_delay() -> None:
    pair = Pair()
    ours, _ = pair.open()
    pair.send(ours, bytes(10 * MIB))
    pair.settle()
    assert pair.bob.reset_stalled(0.0) == []
    assert pair.bob.reset_stalled(10_000.0) == []


def test_a_message_that_was_not_begun_can_be_withdrawn() -> None:
    pair = Pair()
    ours, theirs = pair.open()
    first, second = ours.push(bytes(50_000)), ours.push(b"second")
    pair.alice.wake(ours)
    pair.carry(pair.alice, pair.bob, batches=1)
    assert not ours.withdraw(first)
    assert ours.withdraw(second)
    pair.settle()
    assert theirs.take_message() == bytes(50_000)
    assert theirs.take_message() is None


def test_pings_and_goodbyes() -> None:
    pair = Pair()
    assert receive(pair.bob, Ping(9)) == []
    assert list_frames(pair.bob) == [Pong(9)]
    assert receive(pair.alice, Pong(9)) == [PongArrived(9)]
    pair.alice.say_goodbye(GoodbyeCode.FULL)
    assert pair.settle() == [SaidGoodbye(GoodbyeCode.FULL)]
    assert encode_frame(Goodbye(GoodbyeCode.FULL))[0] == 4


@settings(max_examples=60)
@given(st.data())
def test_whatever_happens_every_message_arrives_once_and_in_order(
    data: st.DataObject,
) -> None:
    """Random sends, reads and partial carrying over several streams."""
    pair = Pair(NetworkParams(reserve_bytes=MIB, reserve_bytes_per_peer=MIB))
    streams = [pair.open(bounds) for bounds in (PROTOCOLS["echo"], BULK, BULK)]
    sent: list[list[bytes]] = [[] for _ in streams]
    got: list[list[bytes]] = [[] for _ in streams]
    sizes = st.sampled_from([0, 1, 5000, MAX_DATA, 70_000, 131_073, 300_000, 900_000])
    for step in range(data.draw(st.integers(1, 25))):
        index = data.draw(st.integers(0, 2))
        ours, theirs = streams[index]
        match data.draw(st.integers(0, 3)):
            case 0:
                message = bytes([step]) * data.draw(sizes)
                sent[index].append(message)
                pair.send(ours, message)
            case 1:
                pair.carry(pair.alice, pair.bob, data.draw(st.integers(1, 20)))
            case 2:
                pair.carry(pair.bob, pair.alice)
            case _:
                if (message := theirs.take_message()) is not None:
                    got[index].append(message)
    for _ in range(200):
        pair.settle()
        for index, (_, theirs) in enumerate(streams):
            if (message := theirs.take_message()) is not None:
                got[index].append(message)
    assert got == sent
    assert pair.pool.held_bytes == 0


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_garbage_in_the_mux_raises_violations_only(plaintexts: list[bytes]) -> None:
    bob = Pair().bob
    receive(bob, Open(1, "echo"))
    for plaintext in plaintexts:
        try:
            bob.receive(plaintext, 0.0)
        except ProtocolViolation:
            return

"""Bodies from peers: right ones, wrong ones, none."""

from dataclasses import dataclass

import msgspec
import trio
import trio.testing
from chain_world import ALICE, BOB, COIN, World

from chain.records.transfer import Transfer
from network.errors import RequestTimeout
from network.faults import Fault
from p2pchain.node.consensus.bodies import ATTEMPTS, BodyExchange
from primitives.codec import encode
from primitives.errors import MissingError
from shards.chunk import compute_chunk_hash


@dataclass
class Peer:
    peer_id: bytes
    answer: bytes | None
    """None: it does not answer."""
    rtt_ms: float = 1.0


class Peers:
    """A network whose peers say what they were told to."""

    def __init__(self, *peers):
        self.faults = []
        self.asked = []
        self.handlers = {}
        self._peers = {peer.peer_id: peer for peer in peers}

    def peers(self):
        return list(self._peers.values())

    def handle_request(self, protocol, handler, **kwargs):
        self.handlers[protocol] = handler

    def penalize(self, peer_id, fault):
        self.faults.append((peer_id, fault))

    async def request(self, peer_id, protocol, payload, **kwargs):
        self.asked.append(peer_id)
        answer = self._peers[peer_id].answer
        if answer is None:
            raise RequestTimeout("nothing")
        return answer


def build_scene():
    world = World()
    held = world.build(world.sign(ALICE, Transfer(BOB.public_key, 1, COIN), 1))
    (certified,) = held.block.body.chunks
    ((_, body),) = held.bodies.items()
    return certified.header, body


def fetch(network, header, first=None):
    other = World()
    exchange = BodyExchange(network, other.tree)

    async def scenario():
        return await exchange.fetch([header], first)

    is_here = trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    assert is_here == other.tree.has_body(compute_chunk_hash(header))
    return is_here


def test_who_gives_a_wrong_body_is_charged_and_the_next_one_asked():
    header, body = build_scene()
    wrong = encode(msgspec.structs.replace(body, transactions=(b"x",)))
    network = Peers(
        Peer(b"liar", wrong, 1),
        Peer(b"fool", b"\xff", 2),
        Peer(b"mute", None, 3),
        Peer(b"good", encode(body), 4),
    )
    assert fetch(network, header)
    assert network.asked == [b"liar", b"fool", b"mute", b"good"]
    bad = Fault.BAD_MESSAGE
    assert network.faults == [(b"liar", bad), (b"fool", bad)]


def test_the_sender_of_a_block_is_asked_first():
    header, body = build_scene()
    network = Peers(Peer(b"near", None, 1), Peer(b"sender", encode(body), 9))
    assert fetch(network, header, b"sender")
    assert network.asked == [b"sender"]


def test_nobody_has_it():
    header, _ = build_scene()
    network = Peers(Peer(b"mute", None))
    assert not fetch(network, header)
    assert network.asked == [b"mute"] * ATTEMPTS
    assert network.faults == []


def test_serving():
    header, body = build_scene()
    world, network = World(), Peers()
    BodyExchange(network, world.tree)
    (handler,) = network.handlers.values()
    name = compute_chunk_hash(header)
    try:
        trio.run(handler, b"peer", name)
    except MissingError:
        pass
    else:
        raise AssertionError("a body from nowhere")
    world.tree.keep_body(header, body)
    assert trio.run(handler, b"peer", name) == encode(body)

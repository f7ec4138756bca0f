"""Values of shards elsewhere: what is asked, given, believed and charged."""

import msgspec
import pytest
import trio
from chain_world import ALICE, BOB, COIN, World
from node_world import Net, build_key, run

from chain.errors import PrunedState
from chain.queries.foreign_state import MAX_BEHIND, Question
from chain.records.account import Account
from chain.records.keys import build_account_key
from chain.records.transfer import Transfer
from chain.tree.following import Follow
from chain.tree.opening import open_tree
from network.errors import PeerUnreachable
from network.faults import Fault
from p2pchain.node.chain.foreign_state import (
    DEADLINE_S,
    MAX_LAG,
    MAX_READS,
    VALUES,
    StateExchange,
    ValuesAnswer,
)
from primitives import bls
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from primitives.kv import MemoryStore

KEY = build_account_key(BOB.public_key)
PEER, OTHER = b"p" * 32, b"q" * 32


class Peer:
    def __init__(self, peer_id):
        self.peer_id = peer_id
        self.rtt_ms = 1.0


class Wire(Net):
    """Peers that follow everything, and may change or withhold what they answer."""

    def __init__(self, name):
        super().__init__({}, build_key(name))
        self.tampers = {}
        self.asked = []
        self.serving = None

    def peers(self):
        return [Peer(peer_id) for peer_id in self.tampers]

    async def request(self, peer_id, protocol, payload, **params):
        await trio.lowlevel.checkpoint()
        assert protocol == VALUES
        self.asked.append(peer_id)
        tamper = self.tampers[peer_id]
        if tamper is None:
            raise PeerUnreachable(peer_id, "no answer")
        if tamper == "silent":
            await trio.sleep(params["timeout_s"])
            raise PeerUnreachable(peer_id, "no answer")
        try:
            answer = await self.serving._on_request(PEER, payload)
        except PrunedState as error:
            raise PeerUnreachable(peer_id, "not found") from error
        if callable(tamper):
            return tamper(answer)
        return answer


class Bench:
    """A node that follows shard 1, and one beside it that follows all."""

    def __init__(self):
        self.world = World()
        self.partial = MemoryStore()
        self.partial.write(dict(self.world.store._values))
        follow = Follow(frozenset({1}))
        self.tree = open_tree(self.world.spec, self.partial, bls, follow=follow)
        self.wire, far = Wire("near"), Wire("far")
        self.wire.serving = StateExchange(far, self.world.tree)
        self.exchange = StateExchange(self.wire, self.tree)

    def step(self, *transactions, both=True):
        """Make a block final, at the one node or at both."""
        world = self.world
        held = world.build(*transactions)
        for certified in held.block.body.chunks:
            body = next(iter(held.bodies.values()))
            self.tree.keep_body(certified.header, body)
        world.finalize(held)
        self.waiting = (held, world.certify(held))
        if both:
            self.follow()
        return held

    def follow(self):
        held, certificate = self.waiting
        self.tree.add(held.block_bytes, held.header.time_ms, held.proposal)
        self.tree.finalize(certificate)

    def pay(self):
        return self.world.sign(ALICE, Transfer(BOB.public_key, 2, COIN), 2)


def change(**changes):
    """Return what alters the one value of an answer."""

    def tamper(data):
        answer = decode(ValuesAnswer, data)
        (shown,) = answer.values
        shown = msgspec.structs.replace(shown, **changes)
        return encode(ValuesAnswer(answer.height, (shown,)))

    return tamper


def change_bucket(data):
    """Say another balance, in value and bucket alike."""
    answer = decode(ValuesAnswer, data)
    (shown,) = answer.values
    rich = encode(msgspec.structs.replace(decode(Account, shown.value), balance=1))
    pairs = tuple((k, rich if k == KEY else v) for k, v in shown.proof.pairs)
    proof = msgspec.structs.replace(shown.proof, pairs=pairs)
    shown = msgspec.structs.replace(shown, value=rich, proof=proof)
    return encode(ValuesAnswer(answer.height, (shown,)))


def move(difference):
    def tamper(data):
        answer = decode(ValuesAnswer, data)
        return encode(ValuesAnswer(answer.height + difference, answer.values))

    return tamper


def test_a_value_is_shown_as_of_the_last_block():
    async def test():
        bench = Bench()
        bench.wire.tampers = {PEER: None, OTHER: "honest"}
        bench.step(bench.pay())
        found = await bench.exchange.read(KEY, [2])
        assert decode(Account, found[2].value).balance == 101 * COIN
        assert found[2].height == 1
        # Who helped is asked first the next time.
        await bench.exchange.read(KEY, [2])
        assert bench.wire.asked == [PEER, OTHER, OTHER]
        assert not bench.wire.faults

    run(test)


def test_an_answerer_that_is_ahead_goes_back():
    async def test():
        bench = Bench()
        bench.wire.tampers = {PEER: "honest"}
        bench.step()
        bench.step(bench.pay(), both=False)
        found = await bench.exchange.read(KEY, [2])
        assert (found[2].height, decode(Account, found[2].value).balance) == (
            1,
            100 * COIN,
        )
        bench.follow()
        found = await bench.exchange.read(KEY, [2])
        assert decode(Account, found[2].value).balance == 101 * COIN

    run(test)


def test_an_answerer_that_is_behind_may_be_so_by_a_few_blocks():
    async def test():
        bench = Bench()
        bench.wire.tampers = {PEER: "honest"}
        bench.step()
        # We are the ones ahead: the far tree is a copy of some blocks ago.
        stale = MemoryStore()
        stale.write(dict(bench.world.store._values))
        old = open_tree(bench.world.spec, stale, bls)
        bench.wire.serving = StateExchange(Wire("old"), old)
        for _ in range(MAX_LAG):
            bench.step()
        assert (await bench.exchange.read(KEY, [2]))[2].height == 1
        assert not await bench.exchange.read(KEY, [2], oldest=2)
        bench.step()
        assert not await bench.exchange.read(KEY, [2])
        assert not bench.wire.faults

    run(test)


@pytest.mark.parametrize(
    "lie",
    [
        change(value=None),
        change(value=b"\1"),
        change(shard=1),
        change_bucket,
        move(1),
        move(-1),
        lambda data: data[:-1],
        lambda data: b"",
    ],
)
def test_who_lies_is_charged_and_the_next_one_is_asked(lie):
    async def test():
        bench = Bench()
        bench.step()
        bench.step(bench.pay())
        bench.wire.tampers = {PEER: lie, OTHER: "honest"}
        found = await bench.exchange.read(KEY, [2])
        assert decode(Account, found[2].value).balance == 101 * COIN
        assert bench.wire.faults == [(PEER, Fault.BAD_MESSAGE)]

    run(test)


def test_silence_costs_some_seconds_and_nobody():
    async def test():
        bench = Bench()
        bench.wire.tampers = {bytes([i]) * 32: "silent" for i in range(60)}
        begun = trio.current_time()
        assert not await bench.exchange.read(KEY, [2])
        assert trio.current_time() - begun <= DEADLINE_S
        assert not bench.wire.faults

    run(test)


def test_a_few_questions_at_a_time():
    async def test():
        bench = Bench()
        bench.step()
        most = waiting = 0

        async def request(*args, **params):
            nonlocal most, waiting
            waiting += 1
            most = max(most, waiting)
            await trio.sleep(0.1)
            waiting -= 1
            return await bench.wire.serving._on_request(PEER, args[2])

        bench.wire.tampers = {PEER: "honest"}
        bench.wire.request = request
        answers = []

        async def read():
            answers.append(await bench.exchange.read(KEY, [2]))

        async with trio.open_nursery() as nursery:
            for _ in range(3 * MAX_READS):
                nursery.start_soon(read)
        assert most == MAX_READS
        assert [list(found) for found in answers] == [[2]] * 3 * MAX_READS

    run(test)


def test_what_cannot_be_answered():
    async def test():
        bench = Bench()
        for _ in range(MAX_BEHIND + 1):
            bench.step()
        serve = bench.wire.serving._on_request
        good = Question(KEY, (1, 2, 2, 9), bench.tree.final_height, 0)
        answer = decode(ValuesAnswer, await serve(PEER, encode(good)))
        assert [shown.shard for shown in answer.values] == [1, 2]
        for question in (
            msgspec.structs.replace(good, height=0),
            msgspec.structs.replace(good, oldest=good.height + 1, height=2**40),
        ):
            with pytest.raises(PrunedState):
                await serve(PEER, encode(question))
        for junk in (b"", b"\xff", encode(good)[:-1]):
            with pytest.raises(DecodeError):
                await serve(PEER, junk)
        # Of what it does not follow a node shows nothing.
        own = decode(ValuesAnswer, await bench.exchange._on_request(PEER, encode(good)))
        assert [shown.shard for shown in own.values] == [1]

    run(test)

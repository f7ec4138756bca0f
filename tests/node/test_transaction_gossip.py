"""Transactions in bundles: what goes together, what goes on, and who pays."""

import pytest
import trio
import trio.testing
from chain_world import ALICE, BOB, SPEC, World
from node_world import Net, build_key, run

from chain.records.transfer import Transfer
from network.topics import Topic, Verdict
from p2pchain.node.chain.service import ChainService
from p2pchain.node.chain.transaction_gossip import (
    GATHER_S,
    MAX_BUNDLE_BYTES,
    MAX_BUNDLED,
    Bundle,
    split_bundles,
)
from primitives.codec import decode, encode
from primitives.kv import MemoryStore


class Bench:
    """One node's pool, and what it tells."""

    def __init__(self) -> None:
        self.net = Net({}, build_key("gossip"))
        self.world = World(SPEC)
        self.chain = ChainService(SPEC, MemoryStore(), self.net)
        self.world.tree = self.chain.tree

    def transfer(self, nonce: int, sender=ALICE, amount=1000) -> bytes:
        payload = Transfer(BOB.public_key, 0, amount)
        return encode(self.world.sign(sender, payload, nonce=nonce))

    async def deliver(self, *transactions: bytes) -> Verdict:
        payload = encode(Bundle(transactions))
        return await self.net.deliver(Topic.TRANSACTIONS, payload)

    @property
    def told(self) -> list[tuple[bytes, ...]]:
        return [
            decode(Bundle, payload).transactions
            for topic, payload in self.net.published
            if topic is Topic.TRANSACTIONS
        ]


def test_what_comes_together_goes_together() -> None:
    async def test() -> None:
        bench = Bench()
        lot = [bench.transfer(nonce) for nonce in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.chain.gossip.run)
            await trio.testing.wait_all_tasks_blocked()
            for each in lot:
                bench.chain.submit(each)
            assert bench.told == []
            await trio.sleep(2 * GATHER_S)
            assert bench.told == [tuple(lot)]
            bench.chain.submit(bench.transfer(3))
            await trio.sleep(2 * GATHER_S)
            assert bench.told[1:] == [(bench.transfer(3),)]
            nursery.cancel_scope.cancel()

    run(test)


def test_a_bundle_that_is_taken_goes_on_as_it_came() -> None:
    async def test() -> None:
        bench = Bench()
        verdict = await bench.deliver(bench.transfer(0), bench.transfer(1))
        assert verdict is Verdict.ACCEPT
        assert bench.told == []
        assert len(bench.chain.mempool) == 2

    run(test)


def test_only_what_is_new_goes_on() -> None:
    async def test() -> None:
        bench = Bench()
        old, fresh = bench.transfer(0), bench.transfer(1)
        await bench.deliver(old)
        assert await bench.deliver(old, fresh) is Verdict.IGNORE
        assert bench.told == [(fresh,)]
        assert await bench.deliver(old, fresh) is Verdict.IGNORE
        assert bench.told == [(fresh,)]

    run(test)


def test_a_forged_one_costs_the_sender_and_stops_nothing_before_it() -> None:
    async def test() -> None:
        bench = Bench()
        good, forged = bench.transfer(0), bytearray(bench.transfer(1))
        forged[-1] ^= 1
        verdict = await bench.deliver(good, bytes(forged), bench.transfer(2))
        assert verdict is Verdict.REJECT
        assert bench.told == [(good,)]
        assert len(bench.chain.mempool) == 1

    run(test)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x91\x90", encode(Bundle((bytes(1),) * (MAX_BUNDLED + 1)))],
    ids=["nothing", "an empty bundle", "too many"],
)
def test_no_bundle_costs_the_sender(payload: bytes) -> None:
    async def test() -> None:
        bench = Bench()
        verdict = await bench.net.deliver(Topic.TRANSACTIONS, payload)
        assert verdict is Verdict.REJECT

    run(test)


def test_bundles_are_bounded_and_keep_the_order() -> None:
    many = [number.to_bytes(2, "big") for number in range(2 * MAX_BUNDLED + 1)]
    bundles = list(split_bundles(many))
    assert [len(b.transactions) for b in bundles] == [MAX_BUNDLED, MAX_BUNDLED, 1]
    assert [each for b in bundles for each in b.transactions] == many
    long = [bytes(MAX_BUNDLE_BYTES // 2)] * 3
    assert [len(b.transactions) for b in split_bundles(long)] == [2, 1]
    assert list(split_bundles([])) == []

"""The chain as the node sees it: submitting, waiting, and what gossip costs."""

import pytest
import trio
from chain_world import ALICE, BOB, SPEC, World
from node_world import Net, build_key, run

from chain.errors import AlreadyKnown, CannotPay, InvalidTransaction, WrongNonce
from chain.records.transaction import compute_tx_id
from chain.records.transfer import Transfer
from network.topics import Topic, Verdict
from p2pchain.errors import NotReady
from p2pchain.node.chain.service import REPEAT_BLOCKS, ChainService
from p2pchain.node.chain.transaction_gossip import Bundle
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.kv import MemoryStore

POOR = SecretKey(bytes([77]) * 32)


class Bench:
    """One service, and a leader who builds its blocks."""

    def __init__(self) -> None:
        self.net = Net({}, build_key("service"))
        self.world = World(SPEC)
        self.store = MemoryStore()
        self.chain = ChainService(SPEC, self.store, self.net)
        self.world.tree = self.chain.tree

    def make_block(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            held = self.world.build(picker=self.chain.mempool)
            self.chain.finalize(self.world.certify(held))

    def make_empty_block(self) -> None:
        """A block of a leader that has not heard of our transactions."""
        self.chain.finalize(self.world.certify(self.world.build()))

    def transfer(self, sender=ALICE, amount=1000, **changes) -> bytes:
        return encode(
            self.world.sign(sender, Transfer(BOB.public_key, 0, amount), **changes)
        )

    async def gossip(self, data: bytes) -> Verdict:
        return await self.net.deliver(Topic.TRANSACTIONS, encode(Bundle((data,))))

    def count_published(self, data: bytes) -> int:
        return self.net.published.count((Topic.TRANSACTIONS, encode(Bundle((data,)))))


def test_a_transaction_is_told_and_its_outcome_found() -> None:
    async def test() -> None:
        bench = Bench()
        tx_id = bench.chain.submit(bench.transfer())
        outcomes = []

        async def wait() -> None:
            outcomes.append(await bench.chain.wait_outcome(tx_id, 10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            bench.make_block()
        assert outcomes[0].ok
        assert outcomes[0].tx_id == tx_id
        # Long after, it is found at once.
        bench.make_block(3)
        assert await bench.chain.wait_outcome(tx_id, 0.1) == outcomes[0]

    run(test)


def test_waiting_has_an_end() -> None:
    async def test() -> None:
        bench = Bench()
        tx_id = bench.chain.submit(bench.transfer())
        started = trio.current_time()
        with pytest.raises(NotReady, match="not final after 7 s"):
            await bench.chain.wait_outcome(tx_id, 7)
        assert trio.current_time() - started == pytest.approx(7)

    run(test)


@pytest.mark.parametrize("how", ["expired", "overtaken"])
def test_what_waits_no_more_is_told_at_once(how: str) -> None:
    async def test() -> None:
        bench = Bench()
        data = bench.transfer(valid_until_height=3)
        tx_id = bench.chain.submit(data)
        if how == "expired":
            for _ in range(5):
                bench.make_empty_block()
        else:
            # Another program with the same keys was faster.
            bench.world.nonces.clear()
            other = bench.world.sign(ALICE, Transfer(BOB.public_key, 0, 5))
            bench.chain.finalize(bench.world.certify(bench.world.build(other)))
        with pytest.raises(NotReady, match="waits no more"):
            await bench.chain.wait_outcome(tx_id, 60)

    run(test)


def test_own_transactions_are_told_again_while_they_wait() -> None:
    async def test() -> None:
        bench = Bench()
        data, others = bench.transfer(), bench.transfer(BOB)
        bench.chain.submit(data)
        assert await bench.gossip(others) is Verdict.ACCEPT
        for _ in range(3 * REPEAT_BLOCKS):
            bench.make_empty_block()
        assert bench.count_published(data) == 4
        # Passing gossip on is the network's own business.
        assert bench.count_published(others) == 0
        bench.make_block()
        for _ in range(2 * REPEAT_BLOCKS):
            bench.make_empty_block()
        assert bench.count_published(data) == 4

    run(test)


def test_gossip_that_any_correct_peer_may_send() -> None:
    async def test() -> None:
        bench = Bench()
        data = bench.transfer()
        assert await bench.gossip(data) is Verdict.ACCEPT
        assert await bench.gossip(data) is Verdict.IGNORE
        poor = bench.transfer(POOR)
        ahead = bench.transfer(nonce=5000)
        double = bench.transfer(nonce=0, amount=5)
        bench.make_block()
        old = bench.transfer(nonce=0, amount=7)
        too_long = bench.transfer(nonce=1, valid_until_height=10**6)
        for harmless in (data, poor, ahead, double, old, too_long):
            assert await bench.gossip(harmless) is Verdict.IGNORE
        bench.make_block(3)
        expired = bench.transfer(nonce=1, valid_until_height=2)
        assert await bench.gossip(expired) is Verdict.IGNORE
        assert len(bench.chain.mempool) == 0

    run(test)


def test_gossip_that_costs_the_peer() -> None:
    async def test() -> None:
        bench = Bench()
        good = bench.transfer()
        for bad in (
            b"",
            b"\x00" * 100,
            good[:-1] + bytes([good[-1] ^ 1]),
            good + b"\x00",
            bench.transfer(nonce=1, chain_id=bytes(32)),
            bench.transfer(nonce=1, shard=99),
            bench.transfer(nonce=1, fee_limit=1),
            bench.transfer(nonce=1, version=9),
        ):
            assert await bench.gossip(bad) is Verdict.REJECT
        assert len(bench.chain.mempool) == 0

    run(test)


def test_what_our_own_interfaces_bring_is_refused_by_type() -> None:
    async def test() -> None:
        bench = Bench()
        data = bench.transfer()
        bench.chain.submit(data)
        for bad, kind in (
            (data, AlreadyKnown),
            (bench.transfer(POOR), CannotPay),
            (b"junk", InvalidTransaction),
        ):
            with pytest.raises(kind):
                bench.chain.submit(bad)
        bench.make_block()
        with pytest.raises(WrongNonce):
            bench.chain.submit(data)
        assert bench.count_published(data) == 1

    run(test)


def test_nonces_count_what_waits() -> None:
    async def test() -> None:
        bench = Bench()
        assert bench.chain.get_next_nonce(0, ALICE.public_key) == 0
        bench.chain.submit(bench.transfer())
        bench.chain.submit(bench.transfer())
        assert bench.chain.get_next_nonce(0, ALICE.public_key) == 2
        assert bench.chain.get_next_nonce(1, ALICE.public_key) == 0
        bench.make_block()
        assert bench.chain.get_next_nonce(0, ALICE.public_key) == 2

    run(test)


def test_heights_wake_everybody() -> None:
    async def test() -> None:
        bench = Bench()
        seen = []

        async def wait(height: int) -> None:
            await bench.chain.wait_height(height)
            seen.append(height)

        async with trio.open_nursery() as nursery:
            for height in (3, 1, 0, 2):
                nursery.start_soon(wait, height)
            for expected in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3]):
                await trio.testing.wait_all_tasks_blocked()
                assert seen == expected
                bench.make_block()

    run(test)


def test_a_restart_finds_everything() -> None:
    async def test() -> None:
        bench = Bench()
        tx_id = bench.chain.submit(bench.transfer())
        bench.make_block(2)
        height, block_hash = bench.chain.height, bench.chain.final_hash
        again = ChainService(SPEC, bench.store, Net({}, build_key("again")))
        assert (again.height, again.final_hash) == (height, block_hash)
        assert (await again.wait_outcome(tx_id, 1)).tx_id == tx_id
        assert compute_tx_id(bench.transfer(nonce=0)) == tx_id
        assert len(again.mempool) == 0

    run(test)

"""Receipts of everybody: what is passed on, what is not, and what it costs."""

import pytest
from node_world import Net, build_key, run

from chain.records.proof import Receipt, compute_receipt_message
from network.topics import Topic, Verdict
from p2pchain.node.work_feed import MAX_RECEIPT_BYTES, MAX_RECEIPTS, WorkFeed
from primitives.codec import encode

CHAIN_ID = bytes([7]) * 32
NODE, STRANGER = build_key("node"), build_key("stranger")


def sign(receipt: Receipt, key) -> Receipt:
    return change(receipt, signature=key.sign(compute_receipt_message(receipt)))


def change(receipt: Receipt, **changes) -> Receipt:
    fields = {n: getattr(receipt, n) for n in receipt.__struct_fields__}
    return Receipt(**fields | changes)


def build_receipt(nonce=0, key=NODE, **changes) -> Receipt:
    fields = {
        "chain_id": CHAIN_ID,
        "session": bytes(32),
        "channel_id": bytes(32),
        "client": bytes(32),
        "node": key.public_key,
        "profile": bytes(32),
        "start": 0,
        "end": 4,
        "first_position": 0,
        "tokens": 16,
        "in_hash": bytes(32),
        "out_hash": bytes(32),
        "history_root": bytes(32),
        "price_units": 100,
        "nonce": nonce,
        "previous_hop": bytes(32),
        "previous_own": bytes(32),
        "expires_height": 1000,
        "signature": bytes(64),
    } | changes
    return sign(Receipt(**fields), key)


class Bench:
    def __init__(self) -> None:
        self.net = Net({}, build_key("feed"))
        self.providers = {NODE.public_key}
        self.feed = WorkFeed(self.net, CHAIN_ID, self.providers.__contains__)

    async def hear(self, data: Receipt | bytes) -> Verdict:
        payload = data if isinstance(data, bytes) else encode(data)
        return await self.net.deliver(Topic.WORK, payload)

    @property
    def nonces(self) -> list[int]:
        return [seen.receipt.nonce for seen in self.feed.get_latest(10**6)]


def test_the_newest_come_first() -> None:
    async def test() -> None:
        bench = Bench()
        assert bench.feed.get_latest(10) == ()
        for nonce in range(3):
            assert await bench.hear(build_receipt(nonce)) is Verdict.ACCEPT
        bench.feed.publish(build_receipt(3))
        assert bench.nonces == [3, 2, 1, 0]
        assert [s.receipt.nonce for s in bench.feed.get_latest(2)] == [3, 2]
        assert bench.feed.get_latest(0) == ()
        assert bench.net.published == [(Topic.WORK, encode(build_receipt(3)))]
        assert all(seen.seen_ms > 0 for seen in bench.feed.get_latest(9))

    run(test)


def test_strangers_are_nobodys_fault_and_not_shown() -> None:
    async def test() -> None:
        bench = Bench()
        receipt = build_receipt(key=STRANGER)
        assert await bench.hear(receipt) is Verdict.IGNORE
        assert bench.nonces == []
        # Its registration arrives a block later.
        bench.providers.add(STRANGER.public_key)
        assert await bench.hear(receipt) is Verdict.ACCEPT

    run(test)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"junk",
        encode(build_receipt()) + b"\0",
        bytes(MAX_RECEIPT_BYTES + 1),
        change(build_receipt(), price_units=1),
        change(build_receipt(), signature=bytes(64)),
        sign(build_receipt(), STRANGER),
        build_receipt(chain_id=bytes(32)),
    ],
    ids=["empty", "junk", "trailing", "long", "altered", "unsigned", "forged", "chain"],
)
def test_what_no_correct_node_sends_costs_the_sender(bad) -> None:
    async def test() -> None:
        bench = Bench()
        assert await bench.hear(bad) is Verdict.REJECT
        assert bench.nonces == []

    run(test)


def test_a_receipt_fits_its_bound() -> None:
    longest = build_receipt(
        2**63 - 1, start=2**16 - 1, end=2**16 - 1, first_position=2**32 - 1,
        tokens=2**32 - 1, price_units=2**32 - 1, expires_height=2**63 - 1,
    )  # fmt: skip
    assert len(encode(longest)) < MAX_RECEIPT_BYTES


def test_the_feed_has_a_bound() -> None:
    bench = Bench()
    for nonce in range(MAX_RECEIPTS + 5):
        bench.feed.publish(change(build_receipt(), nonce=nonce))
    assert bench.nonces == list(range(MAX_RECEIPTS + 4, 4, -1))

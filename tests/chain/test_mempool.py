"""The mempool: what it takes, everything it refuses, and in what order it gives."""

import pytest
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, SPEC, World, build_genesis
from channel_helpers import build_opening
from test_register import build_offer

from chain import mempool as mempool_module
from chain.errors import (
    AlreadyKnown,
    BadSignature,
    CannotPay,
    CongestedShard,
    DoubleSpend,
    Expired,
    FeeAboveLimit,
    InvalidTransaction,
    MalformedTransaction,
    NonceGap,
    OversizedTransaction,
    PoolFull,
    ValidityTooLong,
    WrongChain,
    WrongNonce,
    WrongShard,
    WrongVersion,
)
from chain.execution.verified import VerifiedCache
from chain.mempool import NONCE_WINDOW, Mempool
from chain.records.channel import OpenChannels
from chain.records.transaction import SignedTransaction, compute_tx_id
from chain.records.transfer import Transfer
from genesis.state import build_chain_spec
from primitives.codec import encode


class Scene:
    """A world with a pool beside it."""

    def __init__(self, spec=SPEC):
        self.world = World(spec=spec)
        self.pool = Mempool(spec, self.world.tree.verified)

    @property
    def final(self):
        return self.world.tree.final

    def pay(self, sender=ALICE, amount=COIN, shard=0, dst=0, **changes):
        payload = Transfer(DAVE.public_key, dst, amount)
        return self.world.sign(sender, payload, shard, **changes)

    def add(self, signed) -> bytes:
        return self.pool.add(encode(signed), self.final)

    def refuse(self, signed, error, match=None) -> None:
        data = signed if isinstance(signed, bytes) else encode(signed)
        before = len(self.pool), self.pool.get_bytes()
        with pytest.raises(error, match=match) as caught:
            self.pool.add(data, self.final)
        assert type(caught.value) is error
        assert isinstance(caught.value, InvalidTransaction)
        assert caught.value.code
        assert (len(self.pool), self.pool.get_bytes()) == before

    def picked(self, shard=0):
        read = lambda key: self.final.view.get(shard, key)  # noqa: E731
        return [signed for _, signed in self.pool.pick(shard, read)]


@pytest.fixture
def scene():
    return Scene()


def test_a_good_transaction_waits(scene):
    signed = scene.pay()
    tx_id = scene.add(signed)
    assert tx_id == compute_tx_id(encode(signed))
    assert tx_id in scene.pool
    assert scene.pool.get(tx_id).signed == signed
    assert scene.pool.get_bytes() == len(encode(signed))
    assert [waiting.tx_id for waiting in scene.pool.list_waiting(9)] == [tx_id]
    assert scene.pool.get_waiting(0) == 1
    assert scene.pool.get_waiting(1) == 0
    assert tx_id in scene.world.tree.verified


def test_the_same_again(scene):
    signed = scene.pay()
    scene.add(signed)
    scene.refuse(signed, AlreadyKnown)


def test_a_double_spend(scene):
    first = scene.add(scene.pay(nonce=0))
    scene.refuse(scene.pay(amount=2, nonce=0), DoubleSpend, first.hex())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 7}, WrongVersion),
        ({"chain_id": bytes(32)}, WrongChain),
        ({"shard": 3}, WrongShard),
        ({"fee_limit": 10}, FeeAboveLimit),
        ({"valid_until_height": 10**6}, ValidityTooLong),
        ({"nonce": NONCE_WINDOW}, NonceGap),
        ({"nonce": 2**63 - 1}, NonceGap),
    ],
)
def test_refusals(scene, changes, error):
    payload = Transfer(DAVE.public_key, 0, 1)
    scene.refuse(scene.world.sign(ALICE, payload, **{"nonce": 0} | changes), error)


def test_a_nonce_that_is_spent(scene):
    scene.world.advance(scene.pay())
    scene.refuse(scene.pay(amount=5, nonce=0), WrongNonce, "nonce 0, 1 is next")


def test_what_has_expired(scene):
    scene.world.advance(blocks=5)
    scene.refuse(scene.pay(valid_until_height=4), Expired)
    scene.add(scene.pay(valid_until_height=5, nonce=0))


def test_a_forged_signature(scene):
    good = scene.pay()
    other = scene.pay(amount=99, nonce=0)
    forged = SignedTransaction(other.transaction, good.signature)
    scene.refuse(forged, BadSignature)
    assert compute_tx_id(encode(forged)) not in scene.world.tree.verified


@pytest.mark.parametrize(
    ("mangle", "error"),
    [
        (lambda data: b"", MalformedTransaction),
        (lambda data: data[:-1], MalformedTransaction),
        (lambda data: data + b"\0", MalformedTransaction),
        (lambda data: b"\xdc\x00\x02" + data[1:], MalformedTransaction),
        (lambda data: bytes(100_000), OversizedTransaction),
    ],
)
def test_bytes_that_are_not_canonical(scene, mangle, error):
    scene.refuse(mangle(encode(scene.pay())), error)


def test_an_overdraft(scene):
    scene.refuse(scene.pay(amount=101 * COIN), CannotPay, str(100 * COIN))
    scene.refuse(scene.pay(DAVE, amount=0, nonce=0), CannotPay, "balance 0")


def test_all_waiting_transactions_have_to_be_payable_together(scene):
    scene.add(scene.pay(amount=60 * COIN))
    scene.refuse(scene.pay(amount=60 * COIN, nonce=1), CannotPay, "promised")
    scene.add(scene.pay(amount=30 * COIN, nonce=1))
    # Another shard is another balance.
    scene.add(scene.pay(amount=60 * COIN, shard=1, dst=1))


def test_deposits_and_collateral_count(scene):
    opening = OpenChannels((build_opening(BOB, deposit=99 * COIN),))
    scene.add(scene.world.sign(ALICE, opening, 1))
    scene.refuse(scene.pay(amount=COIN, shard=1, nonce=1), CannotPay)
    offer = build_offer(collateral=100 * COIN)
    scene.refuse(scene.world.sign(BOB, offer, 1), CannotPay)


def test_an_update_needs_the_difference_of_the_collateral_only(scene):
    world = scene.world
    world.advance(world.sign(ALICE, build_offer(collateral=90 * COIN), 1))
    scene.add(world.sign(ALICE, build_offer(collateral=99 * COIN), 1))


def test_a_congested_shard():
    scene = Scene(build_chain_spec(build_genesis(backlog_limit=2)))
    scene.world.advance(scene.pay(dst=2), scene.pay(dst=2))
    scene.refuse(scene.pay(dst=2), CongestedShard, "2 packets wait for shard 2")
    scene.add(scene.pay(dst=1, nonce=2))


def test_gaps_are_allowed_and_wait(scene):
    late = scene.pay(nonce=1)
    scene.add(late)
    assert scene.picked() == []
    assert scene.pool.get_next_nonce(0, ALICE.public_key, scene.final) == 0
    first = scene.pay(nonce=0)
    scene.add(first)
    assert scene.picked() == [first, late]
    assert scene.pool.get_next_nonce(0, ALICE.public_key, scene.final) == 2
    assert scene.pool.get_next_nonce(1, ALICE.public_key, scene.final) == 0


def test_senders_take_turns(scene):
    for sender in (ALICE, ALICE, ALICE, BOB, BOB, CAROL):
        scene.add(scene.pay(sender, amount=1))
    order = [signed.transaction.sender for signed in scene.picked()]
    names = {ALICE.public_key: "a", BOB.public_key: "b", CAROL.public_key: "c"}
    assert "".join(names[sender] for sender in order) == "abcaba"


def test_picks_follow_the_state_that_they_are_for(scene):
    first, second = scene.pay(amount=1), scene.pay(amount=2)
    scene.add(first), scene.add(second)
    block = scene.world.build(first)
    picked = [
        signed for _, signed in scene.pool.pick(0, lambda key: block.view.get(0, key))
    ]
    assert picked == [second]


def test_revalidation_drops_what_a_block_made_impossible(scene):
    world = scene.world
    included = scene.pay(amount=1)
    waits = scene.pay(amount=2, nonce=1)
    too_dear = scene.pay(BOB, amount=60 * COIN, nonce=1)
    ids = [scene.add(signed) for signed in (included, waits, too_dear)]
    rival = scene.pay(BOB, amount=70 * COIN, nonce=0)
    world.advance(included, rival)
    assert set(scene.pool.revalidate(scene.final)) == {ids[0], ids[2]}
    assert scene.pool.get_waiting(0) == 1
    assert scene.picked() == [waits]
    assert scene.pool.revalidate(scene.final) == []


def test_revalidation_drops_what_has_expired(scene):
    short = scene.add(scene.pay(valid_until_height=2))
    scene.world.advance(blocks=2)
    assert scene.pool.revalidate(scene.final) == []
    scene.world.advance()
    assert scene.pool.revalidate(scene.final) == [short]
    assert (len(scene.pool), scene.pool.get_bytes()) == (0, 0)


def test_the_pool_is_bounded(scene, monkeypatch):
    monkeypatch.setattr(mempool_module, "MAX_TRANSACTIONS", 2)
    scene.add(scene.pay(amount=1)), scene.add(scene.pay(amount=1))
    scene.refuse(scene.pay(amount=1), PoolFull, "2 transactions")
    monkeypatch.setattr(mempool_module, "MAX_TRANSACTIONS", 9)
    monkeypatch.setattr(mempool_module, "MAX_BYTES", 500)
    scene.refuse(scene.pay(amount=1, nonce=2), PoolFull, "bytes")


def test_one_sender_gets_no_more_than_its_window(scene):
    for _ in range(NONCE_WINDOW):
        scene.add(scene.pay(amount=1))
    scene.refuse(scene.pay(amount=1), NonceGap)
    assert len(scene.picked()) == NONCE_WINDOW


def test_a_block_from_the_pool_needs_no_second_signature_check(scene, monkeypatch):
    scene.add(scene.pay())
    monkeypatch.setattr("chain.execution.envelope.verify_transaction", refuse_to_verify)
    block = scene.world.build(picker=scene.pool)
    assert block.chunks[0].header.tx_count == 1


def refuse_to_verify(signed):
    raise AssertionError("verified twice")


def test_the_cache_of_verified_ids_is_bounded():
    cache = VerifiedCache(capacity=2)
    for name in (b"a", b"b", b"c"):
        cache.add(name)
    assert len(cache) == 2
    assert b"a" not in cache
    assert b"c" in cache

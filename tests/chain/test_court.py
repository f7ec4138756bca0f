"""Fraud proofs on the chain: who is believed, what it costs, and what stands still."""

import pytest
from chain_world import COIN
from fraud_world import PAYER, SHARD, FraudWorld, replace
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import (
    InvalidBlock,
    MissingFraudProof,
    ShardHalted,
    UnjudgedFraud,
)
from chain.ledger.stake import StakeStatus
from chain.mempool import Mempool
from chain.queries.queries import Queries
from chain.records.block import Block, compute_evidence_root
from chain.records.transaction import compute_tx_id
from chain.tree.branch import Branch
from p2pchain.sim.chains.committee import hand_bodies
from primitives.codec import encode
from primitives.errors import P2PChainError
from primitives.merkle import compute_list_root
from shards.chunk import compute_chunk_hash
from shards.fraud import (
    build_notice,
    build_produced,
    compute_fraud_id,
    decode_fraud,
)

TOMBSTONED = StakeStatus.TOMBSTONED


@pytest.fixture
def world():
    return FraudWorld()


def guilty(world, fraud):
    """Return the indices of those whom a proof convicts."""
    notice = world.notice(fraud)
    bits = int.from_bytes(notice.bitmap, "little")
    return [index for index in range(7) if bits >> index & 1]


def refuse(world, match, notice, error=InvalidBlock):
    """Neither the leader nor the other node takes it."""
    with pytest.raises(error, match=match):
        world.build(evidence=(notice,))
    held = world.build()
    header = replace(held.header, evidence_root=compute_evidence_root((notice,)))
    body = replace(held.block.body, evidence=(notice,))
    block = encode(Block(header, body))
    with pytest.raises(error, match=match):
        world.judge.tree.add(block, held.header.time_ms)
    world.finalize(held)


def test_a_fraud_convicts_its_committee_and_halts_its_shard(world):
    fraud = world.make_fraud()
    held = world.step(evidence=(world.show(fraud),))
    signers = guilty(world, fraud)
    assert len(signers) >= 5
    for index, person in enumerate(world.people[:7]):
        assert (world.stake(person).status == TOMBSTONED) == (index in signers)
    (halt,) = world.halts()
    assert halt.shard == SHARD
    assert halt.chunk_hash == compute_chunk_hash(fraud.header)
    assert halt.fraud_id == compute_fraud_id(fraud)
    assert halt.height == held.height
    assert world.is_conserved()
    # More than a third: everything, at the end of the window.
    world.end_epoch(2)
    for index in signers:
        assert world.stake(world.people[index]).locked == 0
    assert world.is_conserved()
    assert world.tree.final.child_epoch.epoch > 1


def test_a_halted_shard_stands_still(world):
    fraud = world.make_fraud(world.produce(world.pay(SHARD, nonce=0)))
    world.nonces[PAYER.address, SHARD] = 0
    # One last chunk, in the block that holds the proof; its packet never arrives.
    out = world.pay(SHARD, 0, 3 * COIN)
    world.step(out, evidence=(world.show(fraud),))
    before = world.tree.final.heads[SHARD]
    assert before.tx_count == 1
    balance = world.balance(PAYER)
    waiting = world.pay(SHARD)
    held = world.finalize(world.build(waiting))
    assert not held.block.body.chunks
    assert world.produce(waiting) is None
    with pytest.raises(ShardHalted):
        Mempool(world.spec, world.tree.verified).add(encode(waiting), world.tree.final)
    assert world.outcome(world.pay(0, SHARD)) == "shard_halted"
    # Others go on.
    assert world.outcome(world.pay(0, 0)) == ""
    assert world.outcome(world.pay(0, 2)) == ""
    world.end_epoch()
    assert world.tree.final.heads[SHARD] == before
    assert world.balance(PAYER) < balance
    assert world.is_conserved()
    world.reopen()
    assert [halt.shard for halt in world.halts()] == [SHARD]


def test_nobody_consumes_packets_of_a_halted_shard(world, monkeypatch):
    fraud = world.make_fraud(world.produce(world.pay(SHARD, nonce=0)))
    world.nonces[PAYER.address, SHARD] = 0
    world.step(world.pay(SHARD, 0), evidence=(world.show(fraud),))
    with monkeypatch.context() as patch:
        patch.setattr(Branch, "halted", frozenset())
        held = world.build()
    (chunk,) = held.chunks
    assert chunk.packets[0].packet.src == SHARD
    hand_bodies(held, world.judge.tree)
    with pytest.raises(InvalidBlock, match="which is halted"):
        world.judge.tree.add(held.block_bytes, held.header.time_ms)


def test_a_certified_chunk_of_a_halted_shard_is_refused(world, monkeypatch):
    fraud = world.make_fraud(world.produce(world.pay(SHARD, nonce=0)))
    world.nonces[PAYER.address, SHARD] = 0
    world.step(world.pay(0, SHARD), evidence=(world.show(fraud),))
    with monkeypatch.context() as patch:
        patch.setattr(Branch, "halted", frozenset())
        held = world.build()
    assert [c.header.shard for c in held.chunks] == [SHARD]
    hand_bodies(held, world.judge.tree)
    with pytest.raises(InvalidBlock, match="halted"):
        world.judge.tree.add(held.block_bytes, held.header.time_ms)


def test_a_block_waits_for_the_proof(world):
    fraud = world.make_fraud()
    notice = world.show(fraud, nodes=[world])
    held = world.build(evidence=(notice,))
    judge, now_ms = world.judge.tree, held.header.time_ms
    with pytest.raises(MissingFraudProof) as raised:
        judge.add(held.block_bytes, now_ms)
    assert raised.value.proof_hash == world.notice(fraud).proof_hash
    assert not judge.pending
    judge.frauds.offer(encode(fraud))
    judge.add(held.block_bytes, now_ms)
    world.finalize(held)
    assert world.judge.tree.final_hash == held.block_hash
    # Who judged it gives it to others, also after a restart.
    world.judge.reopen()
    assert raised.value.proof_hash in world.judge.tree.frauds


def test_who_follows_a_quorum_needs_no_proof(world):
    fraud = world.make_fraud()
    held = world.build(evidence=(world.show(fraud, nodes=[world]),))
    judge = world.judge.tree
    judge.add(held.block_bytes, held.header.time_ms, is_decided=True)
    world.finalize(held)
    assert judge.final.view.get_roots() == held.view.get_roots()


def test_a_saved_block_is_taken_up_without_its_proof(world):
    fraud = world.make_fraud()
    held = world.build(evidence=(world.show(fraud),))
    hand_bodies(held, world.judge.tree)
    world.judge.tree.add(held.block_bytes, held.header.time_ms)
    world.judge.tree.save_pending(held.block_hash)
    world.judge.tree.frauds.forget_before(99)
    world.judge.reopen()
    assert world.judge.tree.get(held.block_hash).view.get_roots()


def test_a_good_chunk_convicts_nobody(world):
    produced = world.produce()
    fraud = world.certify_chunk(produced)
    refuse(world, "what its header says", world.show(fraud))
    assert not world.halts()


def test_a_witness_of_no_use_convicts_nobody(world):
    fraud = replace(world.make_fraud(), witness=b"\x92\x90\x90")
    refuse(world, "a witness of no use", world.show(fraud))


def test_a_body_that_cannot_be_executed_convicts(world):
    produced = world.produce(world.pay(SHARD))
    twice = produced.transactions * 2
    header = replace(
        produced.header, tx_root=compute_list_root(twice), tx_count=len(twice)
    )
    fraud = world.certify_chunk(replace(produced, header=header, transactions=twice))
    world.step(evidence=(world.show(fraud),))
    assert world.halts()


def test_packets_that_nobody_emitted_convict(world):
    world.step(world.pay(0, SHARD))
    produced = world.produce()
    (proof,) = produced.packets
    minted = (replace(proof, packet=replace(proof.packet, amount=10**12)),)
    in_root = compute_list_root([encode(each) for each in minted])
    header = replace(produced.header, in_root=in_root)
    fraud = world.certify_chunk(replace(produced, header=header, packets=minted))
    world.step(evidence=(world.show(fraud),))
    assert world.halts()


def test_too_few_endorsements_convict_nobody(world):
    produced = world.produce()
    fraud = world.make_fraud(produced, signers=[0])
    refuse(world, "of no endorsed chunk", world.show(fraud))


def test_forged_endorsements_convict_nobody(world):
    produced = world.produce()
    fraud = world.make_fraud(produced)
    other = world.make_fraud(produced, post_root=b"\2" * 32)
    forged = replace(fraud, certificate=other.certificate)
    refuse(world, "endorsements whose signature", world.show(forged))


@pytest.mark.parametrize(
    "changes",
    [
        {"bitmap": b"\x01"},
        {"chunk_hash": b"\7" * 32},
    ],
)
def test_a_notice_says_what_its_proof_says(world, changes):
    fraud = world.make_fraud()
    world.show(fraud)
    refuse(world, "another fraud", encode(replace(world.notice(fraud), **changes)))


def test_a_bitmap_that_does_not_fit(world):
    fraud = world.make_fraud()
    world.show(fraud)
    notice = replace(world.notice(fraud), bitmap=b"\xff\xff")
    refuse(world, "does not fit", encode(notice))


def test_the_same_fraud_again_is_useless(world):
    fraud = world.make_fraud()
    notice = world.show(fraud)
    world.step(evidence=(notice,))
    refuse(world, "nobody who could still be convicted", notice)
    again = world.make_fraud(build_produced(fraud), post_root=b"\3" * 32)
    refuse(world, "nobody who could still be convicted", world.show(again))


def test_a_second_shard_halts_though_everybody_is_convicted(world):
    """Tombstoned validators endorse until they leave the set."""
    first = world.make_fraud()
    world.step(evidence=(world.show(first),))
    world.step(world.pay(0, 2, 10 * COIN))
    second = world.make_fraud(world.produce(shard=2))
    world.step(evidence=(world.show(second),))
    assert [halt.shard for halt in world.halts()] == [1, 2]


def test_of_an_epoch_that_is_over_only_what_is_in_a_block(world):
    fraud = world.make_fraud()
    world.end_epoch()
    refuse(world, "in no block of it", world.show(fraud))
    world.end_epoch()
    refuse(world, "now it is", world.show(fraud))


def test_a_chunk_of_a_block_is_judged_an_epoch_later(world):
    produced = world.produce(world.pay(SHARD, nonce=0))
    held = world.step(world.pay(SHARD, nonce=0))
    (chunk,) = held.chunks
    in_block = replace(produced, header=chunk.header)
    accused = world.certify_chunk(in_block, signers=[0, 1])
    world.end_epoch()
    # Two signers are too few for a certificate, and enough here: but it is good.
    refuse(world, "what its header says", world.show(accused))


def test_a_chunk_of_another_branch(world):
    """What stands on a block beside this one is not for this branch to judge."""
    left = world.build(view=world.tip.child_parent_view + 1)
    parent = world.tree.get(left.parent_hash)
    produced = world.produce(parent=left, view=left.header.view + 1)
    fraud = world.make_fraud(produced)
    notice = world.show(fraud)
    hand_bodies(left, world.judge.tree)
    world.judge.tree.add(left.block_bytes, left.header.time_ms)
    on_left = world.build(parent=left, evidence=(notice,))
    hand_bodies(on_left, world.judge.tree)
    world.judge.tree.add(on_left.block_bytes, on_left.header.time_ms)
    # Judged once, and still refused where it does not belong.
    with pytest.raises(InvalidBlock, match="does not stand on this branch"):
        world.build(parent=parent, view=left.header.view + 1, evidence=(notice,))


def test_history_from_before_a_snapshot_cannot_be_judged(world, monkeypatch):
    fraud = world.make_fraud()
    notice = world.show(fraud)
    store = world.tree.store
    monkeypatch.setattr(store, "get_first_height", lambda: 10**6)
    with pytest.raises(UnjudgedFraud):
        world.build(evidence=(notice,))


def test_proofs_go_when_their_epoch_is_long_over(world):
    fraud = world.make_fraud()
    world.step(evidence=(world.show(fraud),))
    name = world.notice(fraud).proof_hash
    frauds = world.tree.frauds
    frauds.forget_before(fraud.header.epoch)
    assert name in frauds
    frauds.forget_before(fraud.header.epoch + 1)
    assert name not in frauds


SHARED = FraudWorld()
PROOF = encode(SHARED.make_fraud())


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, len(PROOF) - 1), bit=st.integers(0, 7))
def test_a_damaged_proof_convicts_nobody_else(place, bit):
    """Whatever bit is turned, the proof names itself, or proves nothing."""
    damaged = bytearray(PROOF)
    damaged[place] ^= 1 << bit
    court = SHARED.tree.open_final_court()
    validators = SHARED.tree.get_validators(0)
    try:
        fraud = decode_fraud(bytes(damaged))
        notice = build_notice(fraud, validators)
        SHARED.tree.frauds.offer(bytes(damaged))
        court.judge(notice, validators)
    except P2PChainError:
        return
    # Only what is not signed for may differ: the producer's signature is not here.
    original = decode_fraud(PROOF)
    assert fraud.header == original.header
    assert fraud.certificate == original.certificate


def test_what_waits_for_a_halted_shard_leaves_the_pool(world):
    fraud = world.make_fraud(world.produce(world.pay(SHARD, nonce=0)))
    world.nonces[PAYER.address, SHARD] = 0
    pool = Mempool(world.spec, world.tree.verified)
    inside, there, elsewhere = world.pay(SHARD), world.pay(0, SHARD), world.pay(0, 2)
    for signed in (inside, there, elsewhere):
        pool.add(encode(signed), world.tree.final)
    world.step(evidence=(world.show(fraud),))
    (dropped,) = pool.revalidate(world.tree.final)
    assert dropped == compute_tx_id(encode(inside))
    # Nobody plans with what is in there.
    assert Queries(world.tree).layouts.list_open_shards() == (0, 2)
    late = world.pay(0, SHARD)
    with pytest.raises(ShardHalted):
        pool.add(encode(late), world.tree.final)

"""Blocks, transactions and proofs from people who mean harm."""

import pytest
from chain_world import ALICE, BOB, CAROL, GENESIS, SPEC, World
from channel_helpers import build_opening
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from mangling import HOSTILE, bounded_memory, judge, mangled, many, values_of
from proof_checks import verify_state_proof

from chain.errors import InvalidBlock, InvalidTransaction, MissingParent
from chain.mempool import Mempool
from chain.queries.queries import Queries
from chain.records.block import Block, decode_block
from chain.records.channel import OpenChannels
from chain.records.header import Header, compute_block_hash
from chain.records.proof import Receipt, verify_receipt
from chain.records.transaction import (
    MAX_TRANSACTION_BYTES,
    SignedTransaction,
    Transaction,
    decode_transaction,
    sign_transaction,
    verify_transaction,
)
from chain.records.transfer import Transfer
from chain.state.proofs import StateProof
from consensus.validators import Validator, ValidatorSet
from p2pchain.sim.chains.committee import hand_bodies
from primitives import bls
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from shards.chunk import ChunkHeader
from shards.packet import PacketProof, verify_packet_proof

COINS = 1000
VALIDATORS = ValidatorSet(
    tuple(Validator(v.public_key, v.power) for v in GENESIS.validators)
)
people = st.sampled_from([ALICE, BOB, CAROL])
payloads = st.one_of(
    st.builds(
        Transfer,
        people.map(lambda key: key.public_key),
        st.integers(0, 2),
        st.sampled_from([1, COINS, 10**11]),
    ),
    st.just(OpenChannels((build_opening(),))),
    values_of(Transaction).map(lambda transaction: transaction.payload),
)


@pytest.fixture(scope="module")
def world():
    """A chain with a few final blocks and one that waits to be judged."""
    world = World()
    world.advance(
        world.sign(ALICE, Transfer(BOB.public_key, 1, COINS)),
        world.sign(BOB, OpenChannels((build_opening(CAROL),))),
        blocks=3,
    )
    return world


def build_next(world):
    """Return the world's next block, built on a tree beside it."""
    other = World(store=world.store, now_ms=world.now_ms)
    moved = other.sign(ALICE, Transfer(CAROL.public_key, 2, COINS), nonce=1)
    return other.build(moved), other.now_ms


# Blocks


@given(values_of(Block))
def test_blocks_survive_encoding(block):
    assert decode_block(encode(block)) == block


@many
@given(mangled(values_of(Block).map(encode)))
def test_damaged_blocks_are_refused_or_mean_themselves(data):
    judge(decode_block, encode, InvalidBlock, data)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_blocks_are_refused(name):
    data = HOSTILE[name]
    with bounded_memory(len(data)), pytest.raises(InvalidBlock):
        decode_block(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_tree_takes_no_damaged_block_under_the_true_name(world, data):
    held, now_ms = build_next(world)
    raw = data.draw(mangled(st.just(held.block_bytes)))
    before = dict(world.store.iterate(b""))
    if raw != held.block_bytes:
        with pytest.raises(InvalidBlock):
            world.tree.add(raw, now_ms, held.proposal)
    assert not world.tree.pending
    assert dict(world.store.iterate(b"")) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_tree_takes_no_damaged_block_under_its_own_name(world, data):
    """The proposal is that of the damaged header: a leader who lies."""
    held, now_ms = build_next(world)
    kind = data.draw(st.sampled_from(["bytes", "header"]))
    if kind == "header":
        name = data.draw(st.sampled_from(Header.__struct_fields__))
        strange = data.draw(values_of(Header))
        header = change(held.header, **{name: getattr(strange, name)})
        raw = encode(Block(header, held.block.body))
    else:
        raw = data.draw(mangled(st.just(held.block_bytes)))
    block = judge(decode_block, encode, InvalidBlock, raw)
    if block is None or block == held.block:
        return
    header = block.header
    proposal = change(
        held.proposal,
        block_hash=compute_block_hash(header),
        **{
            name: getattr(header, name)
            for name in ("epoch", "view", "parent_view", "parent_hash", "height")
        },
    )
    with pytest.raises((InvalidBlock, MissingParent)):
        world.tree.add(raw, now_ms, proposal)
    assert not world.tree.pending


def change(record, **fields):
    """Return a record with some fields replaced."""
    own = {name: getattr(record, name) for name in record.__struct_fields__}
    return type(record)(**(own | fields))


# Transactions


@many
@given(values_of(SignedTransaction))
def test_transactions_survive_encoding(signed):
    raw = encode(signed)
    if len(raw) <= MAX_TRANSACTION_BYTES:
        assert decode_transaction(raw) == signed
        assert not verify_transaction(signed)


@many
@given(mangled(values_of(SignedTransaction).map(encode)))
def test_damaged_transactions_are_refused_or_mean_themselves(data):
    judge(decode_transaction, encode, InvalidTransaction, data)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_transactions_are_refused(name):
    data = HOSTILE[name]
    with bounded_memory(len(data)), pytest.raises(InvalidTransaction):
        decode_transaction(data)
    with bounded_memory(len(data)), pytest.raises(InvalidTransaction):
        decode_transaction(data[:MAX_TRANSACTION_BYTES])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_a_signed_transaction_is_taken(world, data):
    signed = world.sign(ALICE, Transfer(BOB.public_key, 0, COINS), nonce=1)
    raw = data.draw(mangled(st.just(encode(signed))))
    pool = Mempool(SPEC, world.tree.verified)
    if raw != encode(signed):
        with pytest.raises(InvalidTransaction):
            pool.add(raw, world.tree.final)
        assert len(pool) == 0


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_somebody_signs_is_taken_or_refused(world, data):
    """Any payload with any numbers, well signed: a typed refusal, or a place."""
    sender = data.draw(people)
    fields = {
        "version": 1,
        "chain_id": SPEC.chain_id,
        "shard": data.draw(st.integers(0, 3)),
        "sender": sender.public_key,
        "nonce": data.draw(st.integers(0, 1)),
        "fee_limit": data.draw(st.sampled_from([0, 10**9, 2**63 - 1])),
        "valid_until_height": data.draw(st.sampled_from([0, 5, 1000, 2**63 - 1])),
        "payload": data.draw(payloads),
    }
    signed = sign_transaction(Transaction(**fields), sender)
    pool = Mempool(SPEC, world.tree.verified)
    event("signed")
    try:
        pool.add(encode(signed), world.tree.final)
    except InvalidTransaction:
        assert len(pool) == 0
        return
    event("taken")
    # What the pool takes, a builder can put into a block that everybody accepts.
    other = World(store=world.store, now_ms=world.now_ms)
    held = other.build(picker=pool)
    judge_tree = World(store=world.store).tree
    hand_bodies(held, judge_tree)
    judge_tree.add(held.block_bytes, held.header.time_ms, held.proposal)
    same = judge_tree.get(held.block_hash)
    assert same.view.get_roots() == held.view.get_roots()


# Parts that travel


@pytest.mark.parametrize(
    "kind", [Header, ChunkHeader, PacketProof, Receipt, StateProof]
)
@settings(max_examples=100)
@given(data=st.data())
def test_damaged_parts_are_refused_or_mean_themselves(kind, data):
    values = values_of(kind)
    raw = data.draw(mangled(values.map(encode)))
    value = judge(lambda raw: decode(kind, raw), encode, DecodeError, raw)
    if isinstance(value, PacketProof):
        assert not verify_packet_proof(value, bytes(32))
    if isinstance(value, Receipt):
        assert not verify_receipt(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_state_proof_proves_nothing(world, data):
    queries = Queries(world.tree)
    shard = data.draw(st.sampled_from([0, 1]))
    proof = queries.states.build_state_proof(shard, b"a" + ALICE.public_key)
    rest = (SPEC.chain_id, SPEC.params.bucket_levels, SPEC.first_validators, bls)
    assert verify_state_proof(proof, *rest)
    raw = data.draw(mangled(st.just(encode(proof))))
    changed = judge(lambda raw: decode(StateProof, raw), encode, DecodeError, raw)
    if changed is not None and changed != proof:
        assert not verify_state_proof(changed, *rest)

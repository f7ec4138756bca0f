"""Chunks from their witnesses: the same results, and nothing but the one witness."""

import random

import msgspec
import pytest
from chain_world import ALICE, BOB, CAROL, COIN
from chunk_lab import NO_LIMITS, PEOPLE, ChunkLab, Produced
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import InvalidWitness
from chain.execution.chunk import execute_chunk
from chain.execution.chunk_run import ChunkFull
from chain.execution.context import decode_context, encode_context
from chain.execution.verified import VerifiedCache
from chain.execution.witness import (
    Witness,
    WitnessBucket,
    WitnessMeter,
    WitnessState,
    build_witness,
    decode_witness,
    encode_witness,
    execute_witnessed,
)
from chain.state.bucket_writes import build_new_bucket
from primitives.buckets import (
    build_multiproof,
    compute_bucket_count,
    compute_bucket_hash,
    compute_bucket_index,
    compute_empty_tree,
    compute_update,
    encode_bucket,
)
from primitives.errors import DecodeError
from primitives.keys import SecretKey
from shards.errors import InvalidChunk
from shards.messages import MAX_WITNESS_BYTES


@pytest.fixture
def lab():
    return ChunkLab()


@pytest.fixture
def mixed(lab):
    packets, transactions = lab.build_mixed()
    return lab.produce(transactions, packets)


def endorse(lab: ChunkLab, chunk: Produced, **changes):
    """Judge a chunk as somebody does who holds nothing of the shard."""
    given = {
        "context": decode_context(encode_context(lab.context)),
        "header": chunk.header,
        "body": chunk.body,
        "witness_bytes": chunk.witness,
        "limits": NO_LIMITS,
        "verified": VerifiedCache(),
    } | changes
    return execute_witnessed(**given)


def forge(chunk: Produced, **changes) -> bytes:
    """Return the chunk's witness with fields replaced."""
    witness = msgspec.structs.replace(decode_witness(chunk.witness), **changes)
    return encode_witness(witness)


# ------------------------------------------------------------------ the same results


def test_an_endorser_gets_what_the_producer_got(lab, mixed):
    assert len(mixed.executed.result.transactions) == 8
    assert len(mixed.executed.result.consumed) == 2
    assert {o.ok for o in mixed.executed.result.outcomes} == {True, False}
    assert endorse(lab, mixed) == mixed.executed


def test_a_follower_gets_what_the_producer_got(lab, mixed):
    executed = execute_chunk(
        lab.context, lab.state, mixed.body, NO_LIMITS, VerifiedCache()
    )
    assert executed == mixed.executed


def test_absent_keys_are_proven_absent(lab):
    stranger = SecretKey(bytes([99]) * 32)
    chunk = lab.produce([lab.transfer(ALICE, stranger, COIN)])
    state = WitnessState(lab.pre_root, lab.levels, decode_witness(chunk.witness))
    assert state.get(b"a" + stranger.public_key) is None
    assert state.get(b"a" + ALICE.public_key) is not None
    endorse(lab, chunk)


def test_what_did_not_fit_is_not_in_the_witness(lab):
    """A producer tries more than it takes; nobody else ever reads that."""
    stranger = SecretKey(bytes([98]) * 32)
    good = lab.transfer(ALICE, BOB)
    unpayable = lab.transfer(stranger, BOB)
    alone = lab.produce([good])
    tried = lab.produce([unpayable, good, unpayable])
    assert tried.body == alone.body
    assert tried.witness == alone.witness


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_chunk_from_its_witness(seed):
    luck = random.Random(seed)
    lab = ChunkLab()
    people = [*PEOPLE, *(SecretKey(bytes([50 + i]) * 32) for i in range(4))]
    transactions = []
    for _ in range(luck.randrange(1, 12)):
        sender, other = luck.sample(people, 2)
        if luck.random() < 0.2:
            transactions.append(lab.open_channel(sender, other))
        else:
            amount = luck.choice([0, 1, COIN, 200 * COIN])
            shard = luck.choice([0, lab.shard, lab.shard, 2, 9])
            transactions.append(lab.transfer(sender, other, amount, shard))
    packets = lab.credit(*range(luck.randrange(4)))
    chunk = lab.produce(transactions, packets)
    if chunk.body.transactions or chunk.body.packets:
        assert endorse(lab, chunk) == chunk.executed
        assert decode_witness(chunk.witness) == build_witness(
            lab.state, chunk.executed.touched
        )


# ---------------------------------------------------------------- hostile witnesses


def test_a_missing_bucket_is_named(lab, mixed):
    """A proof of fewer buckets is as good a proof, but not of this chunk."""
    touched = sorted(mixed.executed.touched)
    index = compute_bucket_index(b"a" + CAROL.public_key, lab.levels)
    fewer = [each for each in touched if each != index]
    with pytest.raises(InvalidWitness, match=f"bucket {index} is missing"):
        endorse(lab, mixed, witness_bytes=show(lab, fewer))


def test_an_extra_bucket_is_refused(lab, mixed):
    touched = mixed.executed.touched
    extra = next(i for i in range(len(touched) + 1) if i not in touched)
    with pytest.raises(InvalidWitness, match=f"bucket {extra} is not touched"):
        endorse(lab, mixed, witness_bytes=show(lab, sorted({*touched, extra})))


def show(lab, indices) -> bytes:
    """Return an honest proof of other buckets than a chunk touches."""
    buckets = tuple(
        WitnessBucket(index, encode_bucket(lab.state.get_bucket(index)))
        for index in indices
    )
    return encode_witness(
        Witness(buckets, build_multiproof(lab.state.get_node, indices, lab.levels))
    )


def test_a_richer_account_is_not_under_the_root(lab, mixed):
    buckets = list(decode_witness(mixed.witness).buckets)
    pairs = {b"a" + ALICE.public_key: b"\x93\xce\xff\xff\xff\xff\x00\x90"}
    buckets[0] = WitnessBucket(buckets[0].index, build_new_bucket(pairs).data)
    with pytest.raises(InvalidWitness, match="a witness of the root"):
        endorse(lab, mixed, witness_bytes=forge(mixed, buckets=tuple(buckets)))


def test_the_witness_of_another_state_is_refused(lab, mixed):
    later = msgspec.structs.replace(mixed.header, pre_root=mixed.header.post_root)
    with pytest.raises(InvalidWitness, match="a witness of the root"):
        endorse(lab, mixed, header=later)


@pytest.mark.parametrize("order", ["twice", "descending"])
def test_buckets_ascend_strictly(lab, mixed, order):
    buckets = decode_witness(mixed.witness).buckets
    wrong = (buckets[0], *buckets) if order == "twice" else buckets[::-1]
    with pytest.raises(InvalidWitness, match="after bucket"):
        endorse(lab, mixed, witness_bytes=forge(mixed, buckets=wrong))


def test_a_bucket_beyond_the_tree_is_refused(lab, mixed):
    count = compute_bucket_count(lab.levels)
    buckets = (*decode_witness(mixed.witness).buckets, WitnessBucket(count, b"\x90"))
    with pytest.raises(InvalidWitness, match=f"bucket {count} of {count}"):
        endorse(lab, mixed, witness_bytes=forge(mixed, buckets=buckets))


@pytest.mark.parametrize("change", [lambda s: s[1:], lambda s: (*s, bytes(32))])
def test_siblings_are_exactly_those_needed(lab, mixed, change):
    siblings = change(decode_witness(mixed.witness).siblings)
    with pytest.raises(InvalidWitness, match="hashes beside the buckets"):
        endorse(lab, mixed, witness_bytes=forge(mixed, siblings=siblings))


def test_an_oversized_witness_is_not_even_read(lab, mixed):
    with pytest.raises(InvalidWitness, match="at most"):
        endorse(lab, mixed, witness_bytes=bytes(MAX_WITNESS_BYTES + 1))


def test_a_bucket_that_is_none_is_refused():
    """Only under a root that somebody made for it."""
    witness = Witness((WitnessBucket(0, b"\xc1"),), ())
    state = WitnessState(compute_bucket_hash(b"\xc1"), 0, witness)
    with pytest.raises(InvalidWitness, match="not a bucket"):
        state.get(b"key")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_passes(data):
    """Whatever byte of a witness is changed, it is the endorser's refusal."""
    lab = ChunkLab()
    chunk = lab.produce([lab.transfer(ALICE, BOB), lab.transfer(BOB, CAROL)])
    place = data.draw(st.integers(0, len(chunk.witness) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(chunk.witness)
    damaged[place] ^= flip
    with pytest.raises(InvalidWitness):
        endorse(lab, chunk, witness_bytes=bytes(damaged))


# ------------------------------------------------------------------- lying producers


@pytest.mark.parametrize(
    "field",
    [
        "post_root",
        "tx_root",
        "tx_count",
        "in_root",
        "out_root",
        "fees",
        "work",
        "bytes",
    ],
)
def test_a_header_that_says_otherwise_is_refused(lab, mixed, field):
    value = getattr(mixed.header, field)
    other = bytes(32) if isinstance(value, bytes) else value + 1
    lie = msgspec.structs.replace(mixed.header, **{field: other})
    with pytest.raises(InvalidChunk, match=f"{field} is"):
        endorse(lab, mixed, header=lie)


def test_a_transaction_that_cannot_stand_is_named(lab):
    chunk = lab.produce([lab.transfer(ALICE, BOB)])
    body = msgspec.structs.replace(
        chunk.body, transactions=(*chunk.body.transactions, *chunk.body.transactions)
    )
    with pytest.raises(InvalidChunk, match="transaction 1 of shard 1: wrong_nonce"):
        endorse(lab, chunk, body=body)


def test_an_empty_chunk_is_none(lab):
    chunk = lab.produce([])
    with pytest.raises(InvalidChunk, match="an empty chunk"):
        endorse(lab, chunk)


def test_packets_out_of_order_are_refused(lab):
    chunk = lab.produce([], lab.credit(1, 2))
    body = msgspec.structs.replace(chunk.body, packets=chunk.body.packets[::-1])
    with pytest.raises(InvalidChunk, match="packet 1 from shard 0, 0 is next"):
        endorse(lab, chunk, body=body)


def test_a_chunk_over_its_limits_is_refused(lab, mixed):
    tight = msgspec.structs.replace(NO_LIMITS, work=mixed.header.work - 1)
    with pytest.raises(InvalidChunk, match="too many work"):
        endorse(lab, mixed, limits=tight)


# -------------------------------------------------------------------------- the meter


def test_the_meter_is_never_below_the_witness(lab):
    packets, transactions = lab.build_mixed()
    meter = WitnessMeter(lab.state)
    chunk = lab.produce(transactions, packets, meter)
    full = sum(34 for s in decode_witness(chunk.witness).siblings if not s)
    assert len(chunk.witness) <= meter.bytes <= len(chunk.witness) + full + 64


def test_a_producer_stops_before_its_witness_is_too_long(lab):
    packets, transactions = lab.build_mixed()
    whole = WitnessMeter(lab.state)
    lab.produce(transactions, packets, whole)
    bound = whole.bytes - 1
    chunk = lab.produce(transactions, packets, WitnessMeter(lab.state, bound))
    assert 0 < len(chunk.body.transactions) < len(transactions)
    assert len(chunk.witness) <= bound
    assert endorse(lab, chunk) == chunk.executed


def test_what_the_meter_refuses_leaves_nothing(lab):
    """Not even its fee, and what fits after it is taken."""
    first, large = lab.transfer(ALICE, BOB), lab.open_channel(BOB, CAROL)
    meter = WitnessMeter(lab.state)
    small = lab.produce([first], (), meter)
    second = lab.transfer(ALICE, BOB)
    bounded = WitnessMeter(lab.state, meter.bytes)
    chunk = lab.produce([first, large, second], (), bounded)
    assert chunk.body.transactions == (first, second)
    assert chunk.header.fees == 2 * small.header.fees
    assert bounded.bytes == meter.bytes
    assert endorse(lab, chunk) == chunk.executed


def test_a_shard_that_no_witness_can_show_has_no_chunk(lab):
    with pytest.raises(ChunkFull, match="witness"):
        lab.produce([], (), WitnessMeter(lab.state, 100))


def test_the_witness_of_the_specification():
    """docs/protocol/06-shards.md, Witness."""
    key = b"a" + bytes(32)
    index = compute_bucket_index(key, 1)
    bucket = build_new_bucket({key: b"\x01"})
    nodes = dict(enumerate(compute_empty_tree(1)))
    nodes |= compute_update(nodes.__getitem__, {index: bucket.digest}, 1)
    siblings = build_multiproof(nodes.__getitem__, [index], 1)
    data = encode_witness(Witness((WitnessBucket(index, bucket.data),), siblings))
    assert data.hex() == "92919201c4289192c42161" + 64 * "0" + "c4010193c400c400c400"
    root = "412de69467f67e20eb21a35a23da6ac440892557e40478c3a4a5426cc6101d5a"
    state = WitnessState(bytes.fromhex(root), 1, decode_witness(data))
    assert state.get(key) == b"\x01"


# -------------------------------------------------------------------------- contexts


def test_a_context_is_its_bytes(lab):
    data = encode_context(lab.context)
    assert decode_context(data) == lab.context
    assert encode_context(decode_context(data)) == data
    for wrong in (b"", data[:-1], data + b"\0"):
        with pytest.raises(DecodeError):
            decode_context(wrong)

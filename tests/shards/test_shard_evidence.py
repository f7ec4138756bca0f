"""E4 and E6: whom two statements about one slot convict, and whom they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_world import CHAIN, Chain, Town, make_next, name, replace

from chain.records.pieces import compute_piece_id
from primitives.codec import encode
from shards.certificate import compute_producer_bytes
from shards.chunk import compute_chunk_hash
from shards.errors import InvalidShardEvidence
from shards.evidence import (
    MAX_SHARD_EVIDENCE_BYTES,
    DoubleEndorsement,
    DoubleProduction,
    Endorsed,
    Misconduct,
    Produced,
    build_double_endorsement,
    build_double_production,
    decode_shard_evidence,
    find_shard_accused,
    get_endorsed,
    get_misconduct,
    validate_shard_evidence,
)
from shards.messages import ProducerSignature
from shards.slots import Slot, get_slot

TOWN = Town([10] * 10)
BLOCKS = Chain()


def make(salt, view=5, producer=1):
    return make_next(
        BLOCKS.tips[1],
        epoch=0,
        view=view,
        anchor=BLOCKS.parent,
        producer=producer,
        transactions=(salt,),
    )


HEADER, OTHER = make(b"a"), make(b"b")
SLOT = get_slot(HEADER)


def endorsed(header, *signers):
    return Endorsed(compute_chunk_hash(header), TOWN.certify(header, signers))


def produce(header, signer=1, key=None):
    slot, chunk_hash = get_slot(header), compute_chunk_hash(header)
    message = compute_producer_bytes(CHAIN, slot, chunk_hash)
    signature = TOWN.keys[signer if key is None else key].sign(message)
    return ProducerSignature(slot, chunk_hash, signer, signature)


def check(evidence, guilty):
    """Judge evidence after it went over the wire; no `guilty`: it convicts nobody."""
    if guilty:
        again = decode_shard_evidence(encode(evidence))
        assert again == evidence
        assert len(encode(evidence)) <= MAX_SHARD_EVIDENCE_BYTES
        assert find_shard_accused(again, TOWN.validators) == guilty
        judged = validate_shard_evidence(again, TOWN.validators, CHAIN, TOWN.scheme)
        assert judged == guilty
        return
    with pytest.raises(InvalidShardEvidence):
        validate_shard_evidence(evidence, TOWN.validators, CHAIN, TOWN.scheme)


signer_sets = st.sets(st.integers(0, 9), min_size=1)


@given(signer_sets, signer_sets)
def test_whoever_is_in_both_bitmaps(first, second):
    common = tuple(sorted(first & second))
    pair = endorsed(HEADER, *first), endorsed(OTHER, *second)
    evidence = build_double_endorsement(SLOT, *pair)
    assert evidence == build_double_endorsement(SLOT, *reversed(pair))
    assert get_misconduct(evidence) is Misconduct.DOUBLE_ENDORSE
    check(evidence, common)


def test_two_single_endorsements():
    pair = [get_endorsed(TOWN.endorse(h, 3), 10) for h in (HEADER, OTHER)]
    check(build_double_endorsement(SLOT, *pair), (3,))


def test_a_single_endorsement_and_a_certificate():
    single = get_endorsed(TOWN.endorse(OTHER, 3), 10)
    check(build_double_endorsement(SLOT, endorsed(HEADER, 1, 3, 5), single), (3,))


@pytest.mark.parametrize("forged", [0, 1])
def test_forged_endorsements(forged):
    pair = [endorsed(HEADER, 3, 4), endorsed(OTHER, 3, 4)]
    fake = TOWN.certify((HEADER, OTHER)[forged], [4, 5])
    certificate = replace(pair[forged].certificate, signature=fake.signature)
    pair[forged] = replace(pair[forged], certificate=certificate)
    check(build_double_endorsement(SLOT, *pair), ())


def test_endorsements_of_two_slots_convict_nobody():
    """Each is genuine in its own slot; under one slot one of them is forged."""
    later = make(b"b", view=6)
    pair = endorsed(HEADER, 3), endorsed(later, 3)
    for slot in (SLOT, get_slot(later)):
        check(build_double_endorsement(slot, *pair), ())


def test_one_chunk_twice():
    with pytest.raises(InvalidShardEvidence):
        build_double_endorsement(SLOT, endorsed(HEADER, 1), endorsed(HEADER, 1, 2))
    with pytest.raises(InvalidShardEvidence):
        build_double_production(produce(HEADER), produce(HEADER))


def test_the_wrong_order():
    good = build_double_endorsement(SLOT, endorsed(HEADER, 1), endorsed(OTHER, 1))
    bad = DoubleEndorsement(SLOT, good.second, good.first)
    check(bad, ())
    with pytest.raises(InvalidShardEvidence):
        decode_shard_evidence(encode(bad))


@pytest.mark.parametrize("bitmap", [b"", b"\x08", b"\x00\x40", b"\x08\x00\x00"])
def test_bitmaps_of_another_set(bitmap):
    pair = [endorsed(HEADER, 3), endorsed(OTHER, 3)]
    certificate = replace(pair[0].certificate, bitmap=bitmap)
    pair[0] = replace(pair[0], certificate=certificate)
    check(build_double_endorsement(SLOT, *pair), ())


def test_two_chunks_of_one_producer():
    first, second = produce(HEADER), produce(OTHER)
    evidence = build_double_production(first, second)
    assert evidence == build_double_production(second, first)
    assert get_misconduct(evidence) is Misconduct.DOUBLE_PRODUCE
    check(evidence, (1,))


def test_two_producers_or_two_slots():
    for other in (produce(OTHER, signer=2), produce(make(b"b", view=6))):
        with pytest.raises(InvalidShardEvidence):
            build_double_production(produce(HEADER), other)


def test_forged_productions():
    check(build_double_production(produce(HEADER), produce(OTHER, key=2)), ())
    check(build_double_production(produce(HEADER, key=2), produce(OTHER)), ())
    wide = DoubleProduction(
        SLOT, 10, *(Produced(name(i), bytes(96)) for i in sorted("ab", key=name))
    )
    check(wide, ())


def test_an_endorsement_is_no_production():
    """One signature never stands for the other kind."""
    first = Produced(compute_chunk_hash(HEADER), TOWN.endorse(HEADER, 1).signature)
    second = Produced(compute_chunk_hash(OTHER), TOWN.endorse(OTHER, 1).signature)
    pair = sorted([first, second], key=lambda p: p.chunk_hash)
    check(DoubleProduction(SLOT, 1, *pair), ())


@given(st.binary(max_size=600))
def test_bytes_that_are_no_evidence(data):
    with pytest.raises(InvalidShardEvidence):
        decode_shard_evidence(data)


def test_names():
    one = build_double_production(produce(HEADER), produce(OTHER))
    two = build_double_endorsement(SLOT, endorsed(HEADER, 1), endorsed(OTHER, 1))
    three = build_double_endorsement(SLOT, endorsed(HEADER, 1, 2), endorsed(OTHER, 1))
    assert len({compute_piece_id(e) for e in (one, two, three)}) == 3


def test_the_largest_evidence_fits():
    hashes = sorted([name(1), name(2)])
    full = Endorsed(hashes[0], TOWN.certify(HEADER, [1]))
    full = replace(full, certificate=replace(full.certificate, bitmap=bytes(16)))
    slot = Slot(2**32 - 1, 2**16 - 1, 2**63 - 1)
    largest = DoubleEndorsement(slot, full, replace(full, chunk_hash=hashes[1]))
    assert len(encode(largest)) <= MAX_SHARD_EVIDENCE_BYTES

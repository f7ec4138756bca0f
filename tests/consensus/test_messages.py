"""Messages, certificates, validators, leaders: bytes and rules."""

import contextlib

import msgspec
import pytest
from consensus_bench import CHAIN, Bench, make_hash
from hypothesis import given
from hypothesis import strategies as st

from consensus.certificates import verify_attendance, verify_certificate
from consensus.errors import InvalidValidators
from consensus.leader import compute_leader
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Message,
    Notarize,
    Nullify,
    Proposal,
    Propose,
    compute_finalize_bytes,
    compute_notarize_bytes,
    compute_nullify_bytes,
)
from consensus.randao import compute_mix, compute_reveal_bytes
from consensus.validators import (
    Validator,
    ValidatorSet,
    decode_bitmap,
    encode_bitmap,
)
from primitives.codec import decode, encode
from primitives.errors import DecodeError

small = st.integers(0, 40)
hashes = st.sampled_from([make_hash("a"), make_hash("b"), bytes(32)])
signatures = st.sampled_from([bytes(96), b"\xc0" + bytes(95), b"\xff" * 96])
proposals = st.builds(Proposal, small, small, small, hashes, hashes, small)
notarizes = st.builds(Notarize, proposals, st.integers(0, 2**16 - 1), signatures)
certificates = st.builds(
    Certificate,
    st.sampled_from(Kind),
    st.none() | proposals,
    small,
    small,
    st.binary(max_size=16),
    signatures,
)
messages = st.one_of(
    notarizes,
    certificates,
    st.builds(Nullify, small, small, small, signatures),
    st.builds(Finalize, proposals, small, signatures),
    st.builds(
        Propose,
        st.binary(max_size=9),
        notarizes,
        st.lists(certificates, max_size=3).map(tuple),
    ),
)


@given(messages)
def test_round_trip(message):
    assert decode(Message, encode(message)) == message


@given(messages, st.data())
def test_changed_bytes_never_decode_to_the_same(message, data):
    raw = bytearray(encode(message))
    index = data.draw(st.integers(0, len(raw) - 1))
    raw[index] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DecodeError):
        assert decode(Message, bytes(raw)) != message


@given(st.binary(max_size=300))
def test_rubbish_is_refused_with_one_error(data):
    try:
        message = decode(Message, data)
    except DecodeError:
        return
    assert encode(message) == data


def test_unknown_kind_of_certificate_does_not_decode():
    raw = encode(Certificate(Kind.NULLIFICATION, None, 0, 1, b"\1", bytes(96)))
    assert raw.count(b"\x02") == 1
    with pytest.raises(DecodeError):
        decode(Certificate, raw.replace(b"\x02", b"\x09"))


@given(st.lists(messages, max_size=30))
def test_the_core_survives_everything_that_decodes(sequence):
    bench = Bench()
    for message in sequence:
        for effect in bench.hear(message):
            assert effect is not None
    assert bench.core.view == 1


def test_signed_bytes_differ_by_kind_chain_and_place():
    bench = Bench()
    one, two = bench.proposal(1), bench.proposal(2)
    signed = [
        compute_notarize_bytes(CHAIN, one),
        compute_notarize_bytes(CHAIN, two),
        compute_notarize_bytes(bytes(32), one),
        compute_finalize_bytes(CHAIN, one),
        compute_nullify_bytes(CHAIN, 0, 1),
        compute_nullify_bytes(CHAIN, 0, 2),
        compute_nullify_bytes(CHAIN, 1, 1),
        compute_reveal_bytes(CHAIN, 0, 1),
    ]
    assert len(set(signed)) == len(signed)
    assert compute_mix(bytes(32), bytes(96)) != compute_mix(bytes(32), b"\1" * 96)


def test_certificate_of_another_kind_or_place_does_not_verify():
    bench = Bench()
    good = bench.certify(Kind.NOTARIZATION, bench.proposal())

    def is_valid(certificate):
        validators = bench.config.validators
        return verify_certificate(certificate, validators, CHAIN, bench.scheme)

    assert is_valid(good)
    other = bench.proposal(name="other")
    for fields in (
        {"kind": Kind.FINALIZATION},
        {"kind": Kind.NULLIFICATION, "proposal": None},
        {"proposal": other},
        {"view": 2},
        {"epoch": 1},
        {"bitmap": b"\x0f"},
        {"bitmap": b"\x1f"},
    ):
        assert not is_valid(msgspec.structs.replace(good, **fields))


def test_attendance():
    bench = Bench()
    parent = bench.proposal()
    votes = [bench.notarize(i, parent).signature for i in range(3)]

    def check(bitmap, signature):
        validators = bench.config.validators
        return verify_attendance(
            parent, bitmap, signature, validators, CHAIN, bench.scheme
        )

    assert check(b"\x07", bench.scheme.aggregate(votes))
    assert not check(b"\x03", bench.scheme.aggregate(votes[:2]))
    assert not check(b"\x0b", bench.scheme.aggregate(votes))
    assert not check(b"", b"")


def make_set(*powers):
    return ValidatorSet(
        tuple(Validator(bytes([i]) * 48, power) for i, power in enumerate(powers))
    )


@pytest.mark.parametrize(
    ("powers", "signers", "expected"),
    [
        ((1, 1, 1), (0, 1), False),
        ((1, 1, 1), (0, 1, 2), True),
        ((10, 10, 10, 10), (0, 1, 2), True),
        ((2, 1), (0,), False),
        ((3, 1), (0,), True),
        ((5,), (0,), True),
        ((5,), (), False),
    ],
)
def test_quorum_is_strictly_more_than_two_thirds(powers, signers, expected):
    assert make_set(*powers).has_quorum(signers) is expected


def test_impossible_sets_are_refused():
    twice = Validator(bytes(48), 1)
    for validators in ((), (twice, twice)):
        with pytest.raises(InvalidValidators):
            ValidatorSet(validators).validate()
    with pytest.raises(DecodeError):
        decode(ValidatorSet, encode(ValidatorSet((Validator(bytes(48), 0),))))
    crowd = tuple(Validator(i.to_bytes(48, "big"), 1) for i in range(129))
    with pytest.raises(DecodeError):
        decode(ValidatorSet, encode(ValidatorSet(crowd)))


def test_root_binds_order_and_power():
    roots = [make_set(*powers).compute_root() for powers in ((1, 2), (2, 1), (1, 2, 1))]
    assert len(set(roots)) == 3


@given(st.integers(1, 128), st.data())
def test_bitmap_round_trip(size, data):
    indices = data.draw(st.sets(st.integers(0, size - 1)))
    bitmap = encode_bitmap(indices, size)
    assert decode_bitmap(bitmap, size) == tuple(sorted(indices))
    assert decode_bitmap(bitmap + b"\0", size) is None
    if size % 8:
        beyond = bytes([*bitmap[:-1], bitmap[-1] | 0x80])
        assert decode_bitmap(beyond, size) is None


def test_leaders_follow_stake():
    validators = make_set(10, 20, 70)
    seed = make_hash("seed")
    counts = [0, 0, 0]
    for view in range(2000):
        counts[compute_leader(seed, view, validators)] += 1
    for count, share in zip(counts, (200, 400, 1400), strict=True):
        assert abs(count - share) < 100
    assert compute_leader(seed, 5, validators) == compute_leader(seed, 5, validators)

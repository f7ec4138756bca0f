"""What consensus reads from others and from its disk, with an enemy behind it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mangling import HOSTILE, bounded_memory, judge, mangled, many, values_of

from chain.records.pieces import compute_piece_id
from consensus.certificates import build_certificate, validate_certificate
from consensus.errors import (
    CorruptWal,
    InvalidCertificate,
    InvalidEvidence,
    WrongWal,
)
from consensus.evidence import (
    Evidence,
    build_evidence,
    decode_evidence,
    get_equivocation,
    get_place,
    validate_evidence,
)
from consensus.messages import (
    MAX_MESSAGE_BYTES,
    MAX_PROPOSE_BYTES,
    Certificate,
    Finalize,
    Kind,
    Message,
    Notarize,
    Nullify,
    Proposal,
    Vote,
    compute_vote_bytes,
    get_view,
)
from consensus.validators import (
    MAX_BITMAP_BYTES,
    Validator,
    ValidatorSet,
    decode_bitmap,
    encode_bitmap,
)
from consensus.wal import WalRecord, encode_header, encode_records, scan_wal
from primitives import bls
from primitives.codec import decode, encode
from primitives.errors import DecodeError

CHAIN = bytes([7]) * 32
KEYS = [bls.BlsSecretKey(bytes([0] * 31 + [i + 1])) for i in range(4)]
SET = ValidatorSet(tuple(Validator(key.public_key, 10) for key in KEYS))
OWNER = KEYS[0].public_key

messages = values_of(Message)
statements = values_of(Vote | Certificate)
signers = st.integers(0, 3)
quorums = st.sets(signers, min_size=3).map(sorted)
views = st.integers(1, 2)
proposals = st.builds(
    Proposal,
    epoch=st.just(5),
    view=views,
    parent_view=st.just(0),
    parent_hash=st.just(bytes(32)),
    block_hash=st.sampled_from([bytes([1]) * 32, bytes([2]) * 32]),
    height=st.just(1),
)


def sign(vote):
    """Return a vote with its signature in place."""
    signature = KEYS[vote.signer].sign(compute_vote_bytes(CHAIN, vote))
    fields = {name: getattr(vote, name) for name in vote.__struct_fields__}
    return type(vote)(**(fields | {"signature": signature}))


votes = st.one_of(
    st.builds(Notarize, proposals, signers, st.just(bytes(96))),
    st.builds(Finalize, proposals, signers, st.just(bytes(96))),
    st.builds(Nullify, st.just(5), views, signers, st.just(bytes(96))),
).map(sign)


def certify(kind, proposal, quorum):
    """Return a certificate that validates."""
    blank = bytes(96)
    if kind is Kind.NULLIFICATION:
        subject = proposal.epoch, proposal.view
        cast = [sign(Nullify(*subject, signer, blank)) for signer in quorum]
    else:
        subject = proposal
        vote = Notarize if kind is Kind.NOTARIZATION else Finalize
        cast = [sign(vote(proposal, signer, blank)) for signer in quorum]
    signatures = {vote.signer: vote.signature for vote in cast}
    return build_certificate(kind, subject, signatures, SET, bls)


certificates = st.builds(certify, st.sampled_from(Kind), proposals, quorums)


def decode_message(data):
    return decode(Message, data, MAX_MESSAGE_BYTES)


# Messages


@many
@given(messages)
def test_messages_survive_encoding(message):
    assert decode(Message, encode(message)) == message
    assert len(get_view(message)) == 2


@many
@given(mangled(messages.map(encode)))
def test_damaged_messages_are_refused_or_mean_themselves(data):
    judge(decode_message, encode, DecodeError, data)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        (Message, MAX_PROPOSE_BYTES),
        (Message, MAX_MESSAGE_BYTES),
        (ValidatorSet, MAX_PROPOSE_BYTES),
        (Evidence, MAX_PROPOSE_BYTES),
    ],
)
def test_hostile_bytes_cost_no_more_than_their_length(kind, bound, name):
    data = HOSTILE[name]
    with bounded_memory(len(data)), pytest.raises(DecodeError):
        decode(kind, data, bound)


@many
@given(mangled(values_of(ValidatorSet).map(encode)))
def test_damaged_validator_sets_are_refused_or_mean_themselves(data):
    judge(lambda data: decode(ValidatorSet, data), encode, DecodeError, data)


# Certificates


@many
@given(st.binary(max_size=20), st.integers(1, 128))
def test_a_bitmap_has_one_spelling(bitmap, size):
    indices = decode_bitmap(bitmap, size)
    if indices is not None:
        assert len(bitmap) <= MAX_BITMAP_BYTES
        assert encode_bitmap(indices, size) == bitmap


@given(certificates)
def test_quorums_make_certificates_that_validate(certificate):
    validate_certificate(certificate, SET, CHAIN, bls)


@given(certificates, st.data())
def test_a_damaged_certificate_certifies_nothing(certificate, data):
    raw = data.draw(mangled(st.just(encode(certificate))))
    changed = judge(lambda data: decode(Certificate, data), encode, DecodeError, raw)
    if changed is not None and changed != certificate:
        with pytest.raises(InvalidCertificate):
            validate_certificate(changed, SET, CHAIN, bls)


@given(values_of(Certificate))
def test_certificates_of_strangers_are_refused(certificate):
    with pytest.raises(InvalidCertificate):
        validate_certificate(certificate, SET, CHAIN, bls)


# Evidence


def convict(evidence):
    """Return the guilty; none when there is no case."""
    try:
        return validate_evidence(evidence, SET, CHAIN, bls)
    except InvalidEvidence:
        return ()


@many
@given(statements, statements)
def test_two_statements_are_evidence_or_are_not_in_either_order(one, two):
    cases = []
    for pair in ((one, two), (two, one)):
        try:
            cases.append(build_evidence(*pair))
        except InvalidEvidence:
            cases.append(None)
    assert cases[0] == cases[1]
    if cases[0] is not None:
        evidence = decode_evidence(encode(cases[0]))
        assert evidence == cases[0]
        assert get_place(evidence) == get_view(one) == get_view(two)
        assert get_equivocation(evidence)
        assert convict(evidence) == ()


@many
@given(votes, votes)
def test_votes_convict_exactly_when_no_honest_validator_casts_both(one, two):
    kinds = {type(one), type(two)}
    is_crime = (
        one.signer == two.signer
        and get_view(one) == get_view(two)
        and (
            kinds == {Nullify, Finalize}
            or (len(kinds) == 1 and kinds != {Nullify} and one.proposal != two.proposal)
        )
    )
    try:
        evidence = build_evidence(one, two)
    except InvalidEvidence:
        assert not is_crime
    else:
        assert is_crime
        assert convict(evidence) == (one.signer,)


@given(certificates, certificates)
def test_certificates_convict_who_signed_both(one, two):
    kinds = {one.kind, two.kind}
    is_crime = get_view(one) == get_view(two) and (
        kinds == {Kind.NULLIFICATION, Kind.FINALIZATION}
        or (len(kinds) == 1 and one.proposal != two.proposal)
    )
    try:
        evidence = build_evidence(one, two)
    except InvalidEvidence:
        assert not is_crime
    else:
        assert is_crime
        both = set(decode_bitmap(one.bitmap, 4)) & set(decode_bitmap(two.bitmap, 4))
        assert convict(evidence) == tuple(sorted(both))
        assert len(both) >= 2


@given(signers, st.sampled_from([Notarize, Finalize]), st.data())
def test_damaged_evidence_convicts_nobody_else(signer, kind, data):
    one, two = (
        sign(kind(Proposal(5, 1, 0, bytes(32), bytes([n]) * 32, 1), signer, bytes(96)))
        for n in (1, 2)
    )
    evidence = build_evidence(one, two)
    raw = data.draw(mangled(st.just(encode(evidence))))
    changed = judge(decode_evidence, encode, InvalidEvidence, raw)
    if changed is not None and changed != evidence:
        assert convict(changed) == ()
        assert compute_piece_id(changed) != compute_piece_id(evidence)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_evidence_is_refused(name):
    data = HOSTILE[name]
    with bounded_memory(len(data)), pytest.raises(InvalidEvidence):
        decode_evidence(data)


# The log

batches = st.lists(st.lists(values_of(WalRecord), min_size=1, max_size=3), max_size=4)


def build_log(lots):
    return encode_header(OWNER, CHAIN) + b"".join(encode_records(lot) for lot in lots)


@many
@given(batches)
def test_a_log_gives_back_what_was_written(lots):
    log = build_log(lots)
    records = tuple(record for lot in lots for record in lot)
    assert scan_wal(log, OWNER, CHAIN) == (records, len(log))


@many
@given(mangled(batches.map(build_log)))
def test_a_damaged_log_is_refused_or_cut_to_what_is_sound(data):
    try:
        records, length = scan_wal(data, OWNER, CHAIN)
    except (CorruptWal, WrongWal):
        return
    assert length <= len(data)
    # Mending is done once: the part that is kept reads the same by itself.
    assert scan_wal(data[:length], OWNER, CHAIN) == (records, length)


@given(batches, st.data())
def test_a_torn_write_costs_the_last_frame_at_most(lots, data):
    log = build_log(lots)
    sound = len(build_log(lots[:-1]))
    kept = data.draw(st.integers(sound, len(log)))
    records = tuple(record for lot in lots[:-1] for record in lot)
    if kept < len(log):
        assert scan_wal(log[:kept], OWNER, CHAIN) == (records, sound)
        # A file system may also give zeros for what was never written.
        hole = log[:kept] + bytes(data.draw(st.integers(0, 600)))
        if hole[: len(log)] != log:
            assert scan_wal(hole, OWNER, CHAIN) == (records, sound)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_log_is_refused(name):
    data = HOSTILE[name][: 64 * 1024]
    with bounded_memory(len(data)), pytest.raises(CorruptWal):
        scan_wal(data, OWNER, CHAIN)

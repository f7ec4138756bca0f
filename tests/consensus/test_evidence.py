"""Evidence: which pairs of statements convict, whom, and everything that does not."""

import contextlib
from itertools import product
from pathlib import Path

import msgspec
import pytest
from evidence_court import (
    CHAIN,
    OTHER_CHAIN,
    Court,
    make_certificate_pair,
    make_mixed_pair,
    make_proposal,
    make_vote_pair,
)
from hypothesis import given
from hypothesis import strategies as st

from chain.records.pieces import compute_piece_id
from consensus.errors import InvalidEvidence
from consensus.evidence import (
    MAX_EVIDENCE_BYTES,
    CertificateEvidence,
    Equivocation,
    Evidence,
    MixedEvidence,
    VoteEvidence,
    build_evidence,
    decode_evidence,
    find_accused,
    get_equivocation,
    get_place,
    validate_evidence,
)
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Nullify,
    Proposal,
)
from consensus.validators import MAX_VALIDATORS, ValidatorSet
from p2pchain.sim.signatures import StandinScheme
from primitives import bls
from primitives.bls import BlsSecretKey
from primitives.codec import encode

MAKERS = [make_vote_pair, make_certificate_pair, make_mixed_pair]
INNOCENT = None
TRUTH = {
    (Kind.NOTARIZATION, Kind.NOTARIZATION): Equivocation.DOUBLE_NOTARIZE,
    (Kind.FINALIZATION, Kind.FINALIZATION): Equivocation.DOUBLE_FINALIZE,
    (Kind.NULLIFICATION, Kind.FINALIZATION): Equivocation.NULLIFY_AND_FINALIZE,
    (Kind.FINALIZATION, Kind.NULLIFICATION): Equivocation.NULLIFY_AND_FINALIZE,
    (Kind.NOTARIZATION, Kind.NULLIFICATION): INNOCENT,
    (Kind.NULLIFICATION, Kind.NOTARIZATION): INNOCENT,
    (Kind.NOTARIZATION, Kind.FINALIZATION): INNOCENT,
    (Kind.FINALIZATION, Kind.NOTARIZATION): INNOCENT,
    (Kind.NULLIFICATION, Kind.NULLIFICATION): INNOCENT,
}
"""What two different statements of one view are evidence of, written by hand."""


def subject_of(kind, proposal):
    """Return what a statement of `kind` is about where others are of `proposal`."""
    if kind is Kind.NULLIFICATION:
        return proposal.epoch, proposal.view
    return proposal


# Every pair of votes


@pytest.mark.parametrize(("one", "other"), list(product(Kind, Kind)))
def test_votes_of_every_two_kinds(one, other):
    court = Court()
    a, b = make_proposal(name=b"a"), make_proposal(name=b"b")
    first = court.vote(one, subject_of(one, a))
    second = court.vote(other, subject_of(other, b))
    truth = TRUTH[one, other]
    if truth is INNOCENT:
        with pytest.raises(InvalidEvidence):
            build_evidence(first, second)
        return
    evidence = build_evidence(first, second)
    assert evidence == build_evidence(second, first)
    assert get_equivocation(evidence) == truth
    assert get_place(evidence) == (3, 7)
    assert court.judge(evidence) == (0,)
    assert decode_evidence(encode(evidence)) == evidence


views = st.integers(1, 3)
epochs = st.integers(3, 4)
proposals = st.builds(
    make_proposal,
    views,
    st.sampled_from([b"a", b"b"]),
    epochs,
    parent_view=st.integers(0, 1),
)
statements = st.tuples(st.sampled_from(Kind), proposals)


@given(statements, statements, st.integers(0, 3), st.integers(0, 3))
def test_votes_convict_exactly_who_broke_a_rule(one, other, signer, other_signer):
    court = Court()
    first = court.vote(one[0], subject_of(*one), signer)
    second = court.vote(other[0], subject_of(*other), other_signer)
    is_guilty = (
        signer == other_signer
        and (one[1].epoch, one[1].view) == (other[1].epoch, other[1].view)
        and first != second
        and TRUTH[one[0], other[0]] is not INNOCENT
    )
    if is_guilty:
        assert court.judge(build_evidence(first, second)) == (signer,)
    else:
        with pytest.raises(InvalidEvidence):
            build_evidence(first, second)
        # Nor does it help to write the pair down by hand.
        low, high = sorted((first, second), key=encode)
        with pytest.raises(InvalidEvidence):
            court.judge(VoteEvidence(low, high))


@pytest.mark.parametrize("name", ["parent_view", "parent_hash", "height"])
def test_proposals_that_differ_in_any_field_are_two(name):
    court = Court()
    other = {"parent_view": 5, "parent_hash": b"q" * 32, "height": 21}
    first = court.vote(Kind.NOTARIZATION, make_proposal())
    second = court.vote(Kind.NOTARIZATION, make_proposal(**{name: other[name]}))
    assert court.judge(build_evidence(first, second)) == (0,)


# Every pair of certificates

quorums = st.sets(st.integers(0, 6), min_size=5)


@given(statements, statements, quorums, quorums)
def test_certificates_convict_the_intersection(one, other, signers, other_signers):
    court = Court(7)
    first = court.certify(one[0], subject_of(*one), signers)
    second = court.certify(other[0], subject_of(*other), other_signers)
    is_conflict = (
        (one[1].epoch, one[1].view) == (other[1].epoch, other[1].view)
        and first.proposal != second.proposal
        and TRUTH[one[0], other[0]] is not INNOCENT
    )
    if is_conflict:
        evidence = build_evidence(first, second)
        assert evidence == build_evidence(second, first)
        guilty = court.judge(evidence)
        assert guilty == tuple(sorted(signers & other_signers))
        assert 3 * court.set.get_power(guilty) > court.set.total_power
        assert decode_evidence(encode(evidence)) == evidence
    else:
        with pytest.raises(InvalidEvidence):
            build_evidence(first, second)
        low, high = sorted((first, second), key=encode)
        with pytest.raises(InvalidEvidence):
            court.judge(CertificateEvidence(low, high))


def test_one_subject_under_two_bitmaps_is_no_evidence():
    court = Court()
    for kind in Kind:
        subject = subject_of(kind, make_proposal())
        first = court.certify(kind, subject, (0, 1, 2))
        second = court.certify(kind, subject, (1, 2, 3))
        assert first.bitmap != second.bitmap
        with pytest.raises(InvalidEvidence):
            build_evidence(first, second)


def test_nullification_beside_notarization_is_legal():
    court = Court()
    proposal = make_proposal()
    notarization = court.certify(Kind.NOTARIZATION, proposal, range(4))
    nullification = court.certify(Kind.NULLIFICATION, (3, 7), range(4))
    with pytest.raises(InvalidEvidence, match="beside each other"):
        build_evidence(notarization, nullification)


def test_quorums_weigh_power():
    court = Court(4, powers=(60, 20, 10, 10))
    first = court.certify(Kind.FINALIZATION, make_proposal(), (0, 1))
    second = court.certify(Kind.NULLIFICATION, (3, 7), (0, 3))
    assert court.judge(build_evidence(first, second)) == (0,)
    light = court.certify(Kind.NULLIFICATION, (3, 7), (1, 2, 3))
    with pytest.raises(InvalidEvidence, match="no quorum"):
        court.judge(build_evidence(first, light))


def test_certificates_without_a_common_signer_convict_nobody():
    court = Court(4)
    first = court.certify(Kind.FINALIZATION, make_proposal(), (0, 1))
    second = court.certify(Kind.NULLIFICATION, (3, 7), (2, 3))
    with pytest.raises(InvalidEvidence, match="common"):
        court.judge(build_evidence(first, second))


@pytest.mark.parametrize("make", ["vote", "certificate"])
def test_the_accused_are_known_before_any_signature_is_verified(make):
    court = Court()
    evidence = make_vote_pair(court) if make == "vote" else make_certificate_pair(court)
    court.scheme.pairings = 0
    accused = find_accused(evidence, court.set)
    assert court.scheme.pairings == 0
    assert accused == court.judge(evidence)


@pytest.mark.parametrize(("one", "other"), list(product(Kind, Kind)))
@pytest.mark.parametrize("signer", range(4))
def test_a_vote_beside_a_certificate(one, other, signer):
    """It convicts its signer exactly where two votes would."""
    court = Court()
    a, b = make_proposal(name=b"a"), make_proposal(name=b"b")
    certificate = court.certify(one, subject_of(one, a), (0, 1, 2))
    vote = court.vote(other, subject_of(other, b), signer)
    truth = TRUTH[one, other]
    if truth is INNOCENT:
        with pytest.raises(InvalidEvidence):
            build_evidence(vote, certificate)
        with pytest.raises(InvalidEvidence):
            court.judge(MixedEvidence(certificate, vote))
        return
    evidence = build_evidence(vote, certificate)
    assert evidence == build_evidence(certificate, vote)
    assert get_equivocation(evidence) == truth
    assert decode_evidence(encode(evidence)) == evidence
    if signer == 3:
        with pytest.raises(InvalidEvidence, match="does not count 3"):
            court.judge(evidence)
    else:
        assert court.judge(evidence) == (signer,)


@pytest.mark.parametrize("other", [Kind.NOTARIZATION, Kind.FINALIZATION])
def test_a_vote_for_what_its_certificate_certifies(other):
    court = Court()
    proposal = make_proposal()
    certificate = court.certify(Kind.NOTARIZATION, proposal, range(3))
    with pytest.raises(InvalidEvidence):
        build_evidence(certificate, court.vote(other, proposal))


def test_a_vote_of_another_view_than_the_certificates():
    court = Court()
    certificate = court.certify(Kind.FINALIZATION, make_proposal(), range(3))
    for place in ((3, 8), (4, 7)):
        vote = court.vote(Kind.NULLIFICATION, place)
        with pytest.raises(InvalidEvidence):
            court.judge(MixedEvidence(certificate, vote))


def test_a_certificate_without_a_quorum_convicts_nobody():
    court = Court()
    certificate = court.certify(Kind.FINALIZATION, make_proposal(), (0, 1))
    vote = court.vote(Kind.NULLIFICATION, (3, 7))
    with pytest.raises(InvalidEvidence, match="quorum"):
        court.judge(build_evidence(certificate, vote))


@pytest.mark.parametrize("bitmap", [b"", b"\x1f", b"\x07\x00", b"\xff" * 16])
def test_a_bitmap_of_another_size_counts_nobody(bitmap):
    court = Court()
    pair = make_mixed_pair(court)
    changed = msgspec.structs.replace(pair.first, bitmap=bitmap)
    with pytest.raises(InvalidEvidence, match="bitmap"):
        court.judge(build_evidence(changed, pair.second))


def test_a_subject_that_does_not_fit_its_certificate():
    court = Court()
    proposal = make_proposal()
    good = court.certify(Kind.FINALIZATION, make_proposal(name=b"b"), range(3))
    other_view = court.certify(Kind.FINALIZATION, make_proposal(view=8), range(3))
    moved = msgspec.structs.replace(other_view, view=7)
    nullified = court.certify(Kind.NULLIFICATION, (3, 7), range(3))
    named = msgspec.structs.replace(nullified, proposal=proposal)
    nameless = msgspec.structs.replace(good, proposal=None)
    for bad in (moved, named, nameless):
        low, high = sorted((good, bad), key=encode)
        with pytest.raises(InvalidEvidence):
            court.judge(CertificateEvidence(low, high))


# Forgeries


@pytest.mark.parametrize("make", MAKERS)
def test_another_chains_evidence_is_refused(make):
    court = Court()
    assert court.judge(make(court))
    with pytest.raises(InvalidEvidence):
        court.judge(make(court), OTHER_CHAIN)
    with pytest.raises(InvalidEvidence):
        court.judge(make(Court(chain=OTHER_CHAIN, scheme=court.scheme)))


@pytest.mark.parametrize("make", MAKERS)
def test_another_epochs_set_convicts_nobody(make):
    court = Court()
    evidence = make(court)
    other = ValidatorSet(tuple(reversed(court.set.validators)))
    with pytest.raises(InvalidEvidence):
        validate_evidence(evidence, other, CHAIN, court.scheme)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["first", "second"])
def test_a_forged_signature_convicts_nobody(make, name):
    court = Court()
    evidence = make(court)
    statement = getattr(evidence, name)
    forged = msgspec.structs.replace(statement, signature=b"\x11" * 96)
    pair = [forged, evidence.second if name == "first" else evidence.first]
    with pytest.raises(InvalidEvidence):
        court.judge(build_evidence(*pair))


def test_a_vote_moved_to_another_view_or_epoch_convicts_nobody():
    court = Court()
    earlier = court.vote(Kind.NULLIFICATION, (3, 6))
    before = court.vote(Kind.NULLIFICATION, (2, 7))
    final = court.vote(Kind.FINALIZATION, make_proposal())
    for vote in (earlier, before):
        moved = msgspec.structs.replace(vote, epoch=3, view=7)
        with pytest.raises(InvalidEvidence):
            court.judge(build_evidence(moved, final))


def test_a_vote_of_one_kind_does_not_pass_for_another():
    court = Court()
    proposal = make_proposal()
    notarize = court.vote(Kind.NOTARIZATION, proposal)
    disguised = Finalize(proposal, 0, notarize.signature)
    with pytest.raises(InvalidEvidence):
        court.judge(build_evidence(disguised, court.vote(Kind.NULLIFICATION, (3, 7))))


@pytest.mark.parametrize("signer", [4, 127, 2**16 - 1])
def test_a_signer_outside_the_set_is_refused(signer):
    court, larger = Court(4), Court(5)
    pair = make_vote_pair(larger, 4)
    moved = build_evidence(
        msgspec.structs.replace(pair.first, signer=signer),
        msgspec.structs.replace(pair.second, signer=signer),
    )
    with pytest.raises(InvalidEvidence, match="signer"):
        court.judge(moved)


@pytest.mark.parametrize("bitmap", [b"", b"\x1f", b"\x07\x00", b"\xff" * 16])
def test_a_bitmap_of_another_size_is_refused(bitmap):
    court = Court()
    pair = make_certificate_pair(court)
    changed = msgspec.structs.replace(pair.first, bitmap=bitmap)
    with pytest.raises(InvalidEvidence):
        court.judge(build_evidence(changed, pair.second))


# Bytes


@pytest.mark.parametrize("make", [make_vote_pair, make_certificate_pair])
def test_the_other_order_is_refused(make):
    evidence = make(Court())
    turned = type(evidence)(evidence.second, evidence.first)
    with pytest.raises(InvalidEvidence, match="order"):
        decode_evidence(encode(turned))
    with pytest.raises(InvalidEvidence, match="order"):
        validate_evidence(turned, Court().set, CHAIN, StandinScheme())


@pytest.mark.parametrize("make", MAKERS)
def test_a_statement_twice_is_refused(make):
    evidence = make(Court())
    with pytest.raises(InvalidEvidence):
        decode_evidence(encode(type(evidence)(evidence.first, evidence.first)))


def test_the_form_is_checked_before_any_signature():
    court = Court()
    evidence = make_vote_pair(court)
    court.scheme.pairings = 0
    with pytest.raises(InvalidEvidence):
        court.judge(VoteEvidence(evidence.second, evidence.first))
    assert court.scheme.pairings == 0


@given(st.data())
def test_changed_bytes_convict_nobody_else(data):
    court = Court()
    make = data.draw(st.sampled_from(MAKERS))
    evidence = make(court)
    raw = bytearray(encode(evidence))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InvalidEvidence):
        changed = decode_evidence(bytes(raw))
        assert compute_piece_id(changed) != compute_piece_id(evidence)
        court.judge(changed)
        raise AssertionError("a changed byte that still convicts")


@given(st.binary(max_size=1200))
def test_noise_is_refused(raw):
    with pytest.raises(InvalidEvidence):
        decode_evidence(raw)


def test_the_largest_evidence_fits():
    big = 2**63 - 1
    place = {"epoch": 2**32 - 1, "view": big, "parent_view": big, "height": big}
    certificates = [
        Certificate(
            kind=Kind.FINALIZATION,
            proposal=make_proposal(name=name, **place),
            epoch=2**32 - 1,
            view=big,
            bitmap=b"\xff" * (MAX_VALIDATORS // 8),
            signature=b"\xff" * 96,
        )
        for name in (b"a", b"b")
    ]
    evidence: Evidence = build_evidence(*certificates)
    assert len(encode(evidence)) <= MAX_EVIDENCE_BYTES
    assert decode_evidence(encode(evidence)) == evidence


def test_ids_are_names():
    court = Court()
    ids = {
        compute_piece_id(make_vote_pair(court, 0)),
        compute_piece_id(make_vote_pair(court, 1)),
        compute_piece_id(make_certificate_pair(court)),
    }
    assert len(ids) == 3
    assert all(len(name) == 32 for name in ids)


# The vectors of docs/protocol/11-staking.md


def test_vectors():
    proposal = Proposal(3, 7, 6, b"\1" * 32, b"\2" * 32, 20)
    votes = Finalize(proposal, 1, bytes(96)), Nullify(3, 7, 1, bytes(96))
    certificates = (
        Certificate(Kind.FINALIZATION, proposal, 3, 7, b"\x07", bytes(96)),
        Certificate(Kind.NULLIFICATION, None, 3, 7, b"\x0e", bytes(96)),
    )
    of_votes, of_certificates = build_evidence(*votes), build_evidence(*certificates)
    assert of_certificates.first is certificates[1]
    of_both = build_evidence(certificates[0], votes[1])
    names = {
        len(encode(evidence)): compute_piece_id(evidence).hex()
        for evidence in (of_votes, of_certificates, of_both)
    }
    page = (Path(__file__).parents[2] / "docs/protocol/11-staking.md").read_text()
    assert set(names) == {279, 284, 288}
    for length, name in names.items():
        [line] = [line for line in page.splitlines() if f"`{name}`" in line]
        assert f"{length} bytes" in line


# Real signatures


class RealCourt(Court):
    """The same with BLS."""

    def make_key(self, index):
        return BlsSecretKey((index + 1).to_bytes(32, "big"))


def test_real_signatures():
    court = RealCourt(scheme=bls)
    votes, certificates = make_vote_pair(court, 2), make_certificate_pair(court)
    assert court.judge(votes) == (2,)
    assert court.judge(certificates) == (0, 1, 2)
    for signature in (b"\xc0" + bytes(95), b"\xff" * 96, bytes(96)):
        forged = msgspec.structs.replace(votes.first, signature=signature)
        with pytest.raises(InvalidEvidence):
            court.judge(build_evidence(forged, votes.second))

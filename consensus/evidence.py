"""
Evidence: two signed statements of which no honest validator makes both.

Theory of operation
-------------------
Of one signer in one view of one epoch, these exclude each other:

    E1  two Notarize votes for different proposals
    E2  two Finalize votes for different proposals
    E3  a Nullify and a Finalize vote

Everything else is legal, above all Notarize and Nullify in one view: who voted for a
block and then waited in vain has to be able to leave the view.

A certificate is a quorum's votes at once, so two certificates whose votes exclude each
other convict everybody who is in both bitmaps: N and N' or F and F' of different
subjects, or F and X.  Two quorums share more than a third of all power, so there is
always somebody.  N and X of one view are as legal as the votes in them.

A vote beside a certificate convicts its signer if the certificate counts it for what
the vote excludes.  Who tells each half of the network another story is found that way:
one half holds its vote, and all of them the certificate that the other half made.

Statements of different views never conflict.  A fork across views is reduced to the
cases above by the certificate on which the other branch rests.

One pair has one encoding: the statement with the smaller bytes comes first, and a
certificate before a vote.  Signatures are unique, so nobody can make a second piece of
evidence from the same two votes; only certificates of one subject exist with many
bitmaps.

Spec: docs/protocol/04-consensus.md and 11-staking.md
"""

from enum import StrEnum

from consensus.certificates import validate_certificate
from consensus.errors import InvalidCertificate, InvalidEvidence
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Vote,
    compute_vote_bytes,
    get_view,
)
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet, decode_bitmap
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError

MAX_EVIDENCE_BYTES = 1024
"""Two certificates of the largest set, each below 300 bytes, and some room."""


class VoteEvidence(Record, tag=1):
    """Two votes of one signer in one view."""

    first: Vote
    """The one with the smaller encoding."""
    second: Vote


class CertificateEvidence(Record, tag=2):
    """Two certificates of one view with signers in common."""

    first: Certificate
    """The one with the smaller encoding."""
    second: Certificate


class MixedEvidence(Record, tag=6):
    """A certificate, and in its view a vote of somebody whom it counts."""

    first: Certificate
    second: Vote


Evidence = VoteEvidence | CertificateEvidence | MixedEvidence
"""Tags 3 to 5 are those of shards/evidence.py and shards/fraud.py."""


class Equivocation(StrEnum):
    """What a signer of two statements did; the words are those of interfaces."""

    DOUBLE_NOTARIZE = "double_notarize"
    """E1"""
    DOUBLE_FINALIZE = "double_finalize"
    """E2"""
    NULLIFY_AND_FINALIZE = "nullify_and_finalize"
    """E3"""


def build_evidence(first: Vote | Certificate, second: Vote | Certificate) -> Evidence:
    """Return the evidence of two statements in its canonical order.

    Signatures are not looked at.

    Raises:
        InvalidEvidence: The two may stand beside each other.
    """
    if encode(second) < encode(first):
        first, second = second, first
    evidence: Evidence
    match first, second:
        case Certificate(), Certificate():
            evidence = CertificateEvidence(first, second)
        case Certificate(), Notarize() | Nullify() | Finalize():
            evidence = MixedEvidence(first, second)
        case Notarize() | Nullify() | Finalize(), Certificate():
            evidence = MixedEvidence(second, first)
        case _:
            assert not isinstance(first, Certificate)
            assert not isinstance(second, Certificate)
            evidence = VoteEvidence(first, second)
    _validate_form(evidence)
    return evidence


def decode_evidence(data: bytes) -> Evidence:
    """Return the evidence that the bytes encode, whose form is right.

    Raises:
        InvalidEvidence: Not the canonical encoding of evidence, the pair is in the
            wrong order, or its two statements may stand beside each other.
    """
    try:
        # The stub of `decode` knows classes only, not unions of them.
        evidence: Evidence = decode(Evidence, data, MAX_EVIDENCE_BYTES)  # type: ignore[arg-type]
    except DecodeError as error:
        raise InvalidEvidence(f"not evidence: {error}") from error
    _validate_form(evidence)
    return evidence


def get_place(evidence: Evidence) -> tuple[int, int]:
    """Return the (epoch, view) in which it happened."""
    return get_view(evidence.first)


def is_excluded(first: Vote | Certificate, second: Vote | Certificate) -> bool:
    """Tell whether nobody honest signs two statements of one view."""
    try:
        _classify(first, second)
    except InvalidEvidence:
        return False
    return True


def get_equivocation(evidence: Evidence) -> Equivocation:
    """Return what the guilty did.

    Raises:
        InvalidEvidence: The two statements may stand beside each other.
    """
    return _classify(evidence.first, evidence.second)


def find_accused(evidence: Evidence, validators: ValidatorSet) -> tuple[int, ...]:
    """Return the indices of those whom evidence convicts if it is genuine, ascending.

    Cheap: form and signers are checked, signatures are not.

    Args:
        evidence: Of any origin.
        validators: The set of the epoch that `get_place` names.

    Raises:
        InvalidEvidence: It convicts nobody, whoever signed it.
    """
    _validate_form(evidence)
    match evidence:
        case VoteEvidence():
            signer = evidence.first.signer
            if signer >= len(validators):
                raise InvalidEvidence(f"signer {signer} of {len(validators)}")
            return (signer,)
        case CertificateEvidence():
            first = decode_bitmap(evidence.first.bitmap, len(validators))
            second = decode_bitmap(evidence.second.bitmap, len(validators))
            if first is None or second is None:
                raise InvalidEvidence("a bitmap that does not fit the validator set")
            accused = tuple(index for index in first if index in second)
            if not accused:
                raise InvalidEvidence("two certificates without a common signer")
            return accused
        case MixedEvidence():
            signer = evidence.second.signer
            counted = decode_bitmap(evidence.first.bitmap, len(validators))
            if counted is None:
                raise InvalidEvidence("a bitmap that does not fit the validator set")
            if signer not in counted:
                raise InvalidEvidence(f"the certificate does not count {signer}")
            return (signer,)


def validate_evidence(
    evidence: Evidence,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> tuple[int, ...]:
    """Return the indices of the guilty, ascending; at least one.

    Args:
        evidence: Of any origin; its form is checked again.
        validators: The set of the epoch that `get_place` names.
        chain_id: Part of what was signed.
        scheme: Verifies; twice, and not at all when anything else is wrong.

    Raises:
        InvalidEvidence: It convicts nobody.
    """
    accused = find_accused(evidence, validators)
    match evidence:
        case VoteEvidence():
            for vote in (evidence.first, evidence.second):
                _validate_vote(vote, validators, chain_id, scheme)
        case CertificateEvidence():
            for certificate in (evidence.first, evidence.second):
                _validate_certificate(certificate, validators, chain_id, scheme)
        case MixedEvidence():
            _validate_vote(evidence.second, validators, chain_id, scheme)
            _validate_certificate(evidence.first, validators, chain_id, scheme)
    return accused


def _validate_certificate(
    certificate: Certificate,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> None:
    try:
        validate_certificate(certificate, validators, chain_id, scheme)
    except InvalidCertificate as error:
        raise InvalidEvidence(f"in a certificate: {error}") from error


def _validate_vote(
    vote: Vote, validators: ValidatorSet, chain_id: bytes, scheme: SignatureScheme
) -> None:
    key = validators.validators[vote.signer].public_key
    message = compute_vote_bytes(chain_id, vote)
    if not scheme.verify(key, message, vote.signature):
        raise InvalidEvidence(f"a vote that validator {vote.signer} did not sign")


def _validate_form(evidence: Evidence) -> None:
    """Check everything but signers and signatures."""
    first, second = evidence.first, evidence.second
    is_mixed = isinstance(evidence, MixedEvidence)
    if not is_mixed and encode(first) >= encode(second):
        raise InvalidEvidence("the pair is not in its canonical order")
    if get_view(first) != get_view(second):
        raise InvalidEvidence(f"views {get_view(first)} and {get_view(second)}")
    match evidence:
        case VoteEvidence():
            if evidence.first.signer != evidence.second.signer:
                raise InvalidEvidence("votes of two signers")
        case CertificateEvidence() | MixedEvidence():
            pass
    _classify(first, second)


def _classify(first: Vote | Certificate, second: Vote | Certificate) -> Equivocation:
    """Return what somebody did who signed both, in one view."""
    kinds = {_get_kind(first), _get_kind(second)}
    if kinds == {Kind.NULLIFICATION, Kind.FINALIZATION}:
        return Equivocation.NULLIFY_AND_FINALIZE
    if _get_subject(first) == _get_subject(second) or len(kinds) == 2:
        raise InvalidEvidence("two statements that may stand beside each other")
    if kinds == {Kind.NOTARIZATION}:
        return Equivocation.DOUBLE_NOTARIZE
    return Equivocation.DOUBLE_FINALIZE


def _get_kind(statement: Vote | Certificate) -> Kind:
    match statement:
        case Certificate():
            return statement.kind
        case Notarize():
            return Kind.NOTARIZATION
        case Nullify():
            return Kind.NULLIFICATION
        case Finalize():
            return Kind.FINALIZATION


def _get_subject(statement: Vote | Certificate) -> object:
    return None if isinstance(statement, Nullify) else statement.proposal

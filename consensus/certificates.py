"""
Certificates: a quorum's votes as one signature, and what makes one valid.
"""

from collections.abc import Sequence

from consensus.errors import InvalidCertificate
from consensus.messages import (
    Certificate,
    Kind,
    Proposal,
    compute_finalize_bytes,
    compute_notarize_bytes,
    compute_nullify_bytes,
)
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet, decode_bitmap, encode_bitmap


def build_certificate(
    kind: Kind,
    subject: Proposal | tuple[int, int],
    votes: dict[int, bytes],
    validators: ValidatorSet,
    scheme: SignatureScheme,
) -> Certificate:
    """Return the certificate of verified votes.

    Args:
        kind: What they voted.
        subject: The proposal, or (epoch, view) of a nullification.
        votes: Signature by signer, a quorum of them.
        validators: The epoch's set.
        scheme: Adds the signatures up.
    """
    signers = sorted(votes)
    if isinstance(subject, Proposal):
        proposal, epoch, view = subject, subject.epoch, subject.view
    else:
        proposal, (epoch, view) = None, subject
    return Certificate(
        kind=kind,
        proposal=proposal,
        epoch=epoch,
        view=view,
        bitmap=encode_bitmap(signers, len(validators)),
        signature=scheme.aggregate([votes[signer] for signer in signers]),
    )


def validate_certificate(
    certificate: Certificate,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> None:
    """Check form, quorum and signature, in the order of their cost.

    Raises:
        InvalidCertificate: The first thing that is wrong.
    """
    proposal = certificate.proposal
    if (proposal is None) != (certificate.kind == Kind.NULLIFICATION):
        raise InvalidCertificate("a subject that does not fit the kind")
    place = certificate.epoch, certificate.view
    if proposal is not None and (proposal.epoch, proposal.view) != place:
        raise InvalidCertificate("a subject of another view")
    signers = decode_bitmap(certificate.bitmap, len(validators))
    if signers is None:
        raise InvalidCertificate("a bitmap that does not fit the validator set")
    if not validators.has_quorum(signers):
        raise InvalidCertificate(f"{len(signers)} signers are no quorum")
    message = compute_certificate_bytes(chain_id, certificate)
    keys = validators.get_public_keys(signers)
    if not scheme.fast_aggregate_verify(keys, message, certificate.signature):
        raise InvalidCertificate("the signature does not verify")


def verify_certificate(
    certificate: Certificate,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> bool:
    """Tell whether `validate_certificate` finds nothing wrong."""
    try:
        validate_certificate(certificate, validators, chain_id, scheme)
    except InvalidCertificate:
        return False
    return True


def verify_attendance(
    parent: Proposal,
    bitmap: bytes,
    signature: bytes,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> bool:
    """Tell whether a block's attendance is a quorum's Notarize votes for its parent.

    The parent is not the genesis block, for which nobody voted.
    """
    signers = decode_bitmap(bitmap, len(validators))
    if signers is None or not validators.has_quorum(signers):
        return False
    message = compute_notarize_bytes(chain_id, parent)
    keys = validators.get_public_keys(signers)
    return scheme.fast_aggregate_verify(keys, message, signature)


def compute_certificate_bytes(chain_id: bytes, certificate: Certificate) -> bytes:
    """Return the 32 bytes that every signer of a well-formed certificate signed."""
    if certificate.proposal is None:
        return compute_nullify_bytes(chain_id, certificate.epoch, certificate.view)
    if certificate.kind == Kind.NOTARIZATION:
        return compute_notarize_bytes(chain_id, certificate.proposal)
    return compute_finalize_bytes(chain_id, certificate.proposal)


def merge_votes(
    certificate: Certificate,
    votes: dict[int, bytes],
    validators: ValidatorSet,
    scheme: SignatureScheme,
) -> tuple[bytes, bytes]:
    """Return (bitmap, signature) of a certificate's signers and more verified voters.

    Votes of signers that the certificate already counts are left out.
    """
    signers = decode_bitmap(certificate.bitmap, len(validators))
    assert signers is not None
    extra = sorted(set(votes) - set(signers))
    signatures: Sequence[bytes] = [votes[signer] for signer in extra]
    return (
        encode_bitmap([*signers, *extra], len(validators)),
        scheme.aggregate([certificate.signature, *signatures]),
    )

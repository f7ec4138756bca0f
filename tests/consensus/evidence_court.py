"""
Validators whose votes and certificates the tests make, as a court needs them.

    court = Court()                        four validators
    evidence = make_vote_pair(court, 2)    validator 2 finalized and nullified a view
    court.judge(evidence)                  (2,)
"""

from dataclasses import dataclass, field

from consensus.certificates import build_certificate
from consensus.evidence import build_evidence, validate_evidence
from consensus.messages import (
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Proposal,
    compute_finalize_bytes,
    compute_notarize_bytes,
    compute_nullify_bytes,
)
from consensus.validators import Validator, ValidatorSet
from p2pchain.sim.signatures import StandinScheme

CHAIN, OTHER_CHAIN = b"c" * 32, b"d" * 32
BYTES = {
    Kind.NOTARIZATION: compute_notarize_bytes,
    Kind.FINALIZATION: compute_finalize_bytes,
}
VOTES = {Kind.NOTARIZATION: Notarize, Kind.FINALIZATION: Finalize}


def make_proposal(view=7, name=b"a", epoch=3, **changes):
    fields = {
        "epoch": epoch,
        "view": view,
        "parent_view": view - 1,
        "parent_hash": b"p" * 32,
        "block_hash": name * 32,
        "height": 20,
    }
    return Proposal(**fields | changes)


@dataclass
class Court:
    """Some validators whose votes and certificates the tests make."""

    size: int = 4
    chain: bytes = CHAIN
    powers: tuple = ()
    scheme: StandinScheme = field(default_factory=StandinScheme)

    def __post_init__(self):
        self.keys = [self.make_key(index) for index in range(self.size)]
        powers = self.powers or (10,) * self.size
        self.set = ValidatorSet(
            tuple(
                Validator(key.public_key, power)
                for key, power in zip(self.keys, powers, strict=True)
            )
        )

    def make_key(self, index):
        return self.scheme.make_key(("court", index))

    def vote(self, kind, subject, signer=0):
        """Return a signed vote; the subject of a Nullify is (epoch, view)."""
        if kind is Kind.NULLIFICATION:
            signature = self.keys[signer].sign(
                compute_nullify_bytes(self.chain, *subject)
            )
            return Nullify(*subject, signer, signature)
        message = BYTES[kind](self.chain, subject)
        return VOTES[kind](subject, signer, self.keys[signer].sign(message))

    def certify(self, kind, subject, signers):
        votes = {s: self.vote(kind, subject, s).signature for s in signers}
        return build_certificate(kind, subject, votes, self.set, self.scheme)

    def judge(self, evidence, chain=CHAIN):
        return validate_evidence(evidence, self.set, chain, self.scheme)


def make_vote_pair(court, signer=1, epoch=3):
    """Return evidence that a validator finalized and nullified one view."""
    return build_evidence(
        court.vote(Kind.FINALIZATION, make_proposal(epoch=epoch), signer),
        court.vote(Kind.NULLIFICATION, (epoch, 7), signer),
    )


def make_mixed_pair(court, signer=1, epoch=3):
    """Return evidence that a validator nullified a view that it had finalized."""
    return build_evidence(
        court.certify(Kind.FINALIZATION, make_proposal(epoch=epoch), range(3)),
        court.vote(Kind.NULLIFICATION, (epoch, 7), signer),
    )


def make_certificate_pair(court, signers=range(3), epoch=3):
    """Return evidence that validators notarized two blocks of one view."""
    return build_evidence(
        court.certify(
            Kind.NOTARIZATION, make_proposal(name=b"a", epoch=epoch), signers
        ),
        court.certify(
            Kind.NOTARIZATION, make_proposal(name=b"b", epoch=epoch), signers
        ),
    )

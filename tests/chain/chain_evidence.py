"""Evidence with real signatures, against the validators of `chain_world`."""

from chain_world import BLS_KEYS, VALIDATORS
from evidence_court import Court, make_certificate_pair, make_vote_pair

from primitives import bls
from primitives.codec import encode


class ChainCourt(Court):
    """The genesis validators of a chain, all of whose keys are known."""

    def make_key(self, index):
        return BLS_KEYS[index]


def build_court(spec):
    return ChainCourt(VALIDATORS, chain=spec.chain_id, scheme=bls)


def make_votes(spec, signer, epoch=0):
    """Return encoded evidence of two votes."""
    return encode(make_vote_pair(build_court(spec), signer, epoch))


def make_certificates(spec, signers=(0, 1, 2), epoch=0):
    """Return encoded evidence of two certificates."""
    return encode(make_certificate_pair(build_court(spec), signers, epoch))

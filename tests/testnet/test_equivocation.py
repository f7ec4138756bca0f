"""The pairs of votes that the runner signs convict their signer, and only that one."""

import pytest

from consensus.evidence import (
    Equivocation,
    build_evidence,
    get_equivocation,
    validate_evidence,
)
from consensus.messages import Proposal
from consensus.validators import Validator, ValidatorSet
from p2pchain.testnet.equivocation import sign_pair
from primitives import bls
from primitives.bls import BlsSecretKey

CHAIN = bytes(32)
KEYS = [BlsSecretKey((index + 1).to_bytes(32, "big")) for index in range(4)]
VALIDATORS = ValidatorSet(tuple(Validator(key.public_key, 100) for key in KEYS))


def build_proposal(fill: int) -> Proposal:
    return Proposal(
        epoch=3,
        view=9,
        parent_view=8,
        parent_hash=bytes([1]) * 32,
        block_hash=bytes([fill]) * 32,
        height=30,
    )


@pytest.mark.parametrize("crime", Equivocation)
def test_every_crime_convicts_its_signer(crime: Equivocation) -> None:
    subjects = (build_proposal(2), build_proposal(3))
    evidence = build_evidence(*sign_pair(crime, CHAIN, KEYS[2], 2, subjects))
    assert get_equivocation(evidence) is crime
    assert validate_evidence(evidence, VALIDATORS, CHAIN, bls) == (2,)

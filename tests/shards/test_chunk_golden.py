"""The vectors of docs/protocol/06-shards.md, so that no rewrite moves them."""

from chain.records.pieces import compute_piece_id
from primitives.codec import encode
from primitives.hashing import compute_hash
from shards.certificate import (
    ChunkCertificate,
    compute_endorsement_bytes,
    compute_producer_bytes,
)
from shards.committee import draw_committee, draw_mandates
from shards.evidence import (
    DoubleEndorsement,
    DoubleProduction,
    Endorsed,
    Produced,
)
from shards.fraud import FraudNotice, build_halt, compute_proof_hash
from shards.producers import Hosting
from shards.slots import Slot, draw_custodians, rank_producers

SEED = b"\x01" * 32
CHAIN = b"\x02" * 32
ONE, TWO = b"\x03" * 32, b"\x04" * 32
SLOT = Slot(3, 1, 7)

MEMBERS = (0, 1, 2, 4)
WEIGHTS = (230, 101, 300)
MANDATES = (10, 16, 27, 43)
RANKS = (3, 0, 4, 5, 7, 6)
CUSTODIANS = (1, 9, 2)
ENDORSED = "532d22f3253e6eb3ae1feb2a05f2d6564db29b5f16f684c3077e04ef53af7c95"
PRODUCED = "4d6f374770144042e28b228e8e22dd6692fdcd025d5788f5f2b767a4c1742bf3"
DOUBLE_BYTES, DOUBLE = (
    280,
    "3c6e2f519b686dd9d93024db07373066efc0bf25acc116e5db235974eb09b0b8",
)
PAIR_BYTES, PAIR = (
    273,
    "22befa42cc51656d944b3978b4fcd239434019bd8f53433ea08bdb42e57b8c57",
)
NOTICE = f"950793030107c420{'03' * 32}c420{'05' * 32}c40107"
NOTICE_NAME = "251b8d17fed0a0a0e8aad915be33af73804167c7871e6b1000b46db027048670"
PROOF_NAME = "9522e77f203fcca4e3b4642075b1d957e6fe498049bab1c37c641bc8bf0907c4"
HALT = (
    f"9401c420{'03' * 32}"
    "c420a24caab691b453da948b622d4920f273787972aa130e5236c148dcf47b378afe4d"
)
HOSTING = (
    "93c420030303030303030303030303030303030303030303030303030303030303030302920103"
)


def test_committee():
    committee = draw_committee(SEED, 1, 7, [100, 50, 50, 30, 30, 20, 10, 10])
    assert committee.members == MEMBERS
    assert (committee.weight, committee.needed, committee.total) == WEIGHTS


def test_mandates():
    committee = draw_mandates(SEED, [10, 20, 30, 40], 96)
    assert committee.weights == MANDATES
    assert committee.needed == 65


def test_producers():
    assert rank_producers(SEED, SLOT, [0, 1, 2, 3, 4], [5, 6, 7]) == RANKS
    assert draw_custodians(SEED, 1, [10] * 10) == CUSTODIANS


def test_signed_bytes():
    assert compute_endorsement_bytes(CHAIN, SLOT, ONE).hex() == ENDORSED
    assert compute_producer_bytes(CHAIN, SLOT, ONE).hex() == PRODUCED


def test_evidence():
    certificate = ChunkCertificate(b"\x07", bytes(96))
    double = DoubleEndorsement(
        SLOT, Endorsed(ONE, certificate), Endorsed(TWO, certificate)
    )
    assert len(encode(double)) == DOUBLE_BYTES
    assert compute_piece_id(double).hex() == DOUBLE
    both = Produced(ONE, bytes(96)), Produced(TWO, bytes(96))
    pair = DoubleProduction(SLOT, 5, *both)
    assert len(encode(pair)) == PAIR_BYTES
    assert compute_piece_id(pair).hex() == PAIR


def test_hosting():
    assert encode(Hosting(ONE, 2, (1, 3))).hex() == HOSTING


def test_fraud():
    notice = FraudNotice(SLOT, ONE, b"\5" * 32, b"\7")
    assert encode(notice).hex() == NOTICE
    assert compute_hash("evidence", encode(notice)).hex() == NOTICE_NAME
    assert compute_proof_hash(b"x").hex() == PROOF_NAME
    assert encode(build_halt(notice, 77)).hex() == HALT

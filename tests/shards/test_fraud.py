"""E5: an endorsed chunk that re-executes differently, and proofs that prove nothing."""

import pytest
from shard_world import (
    CHAIN,
    SEED,
    Chain,
    Town,
    compute_in_root,
    make_next,
    make_proofs,
    name,
    replace,
)

from primitives.codec import decode, encode
from primitives.errors import MissingError, RemoteError
from shards.certificate import compute_producer_bytes
from shards.chunk import Counter, compute_chunk_hash
from shards.committee import draw_committee
from shards.errors import InvalidChunk, InvalidShardEvidence
from shards.fraud import (
    MAX_FRAUD_BYTES,
    FraudProof,
    Halt,
    Reexecution,
    build_halt,
    build_notice,
    compute_fraud_id,
    decode_fraud,
    judge_fraud,
)
from shards.slots import get_slot

TOWN = Town([10] * 4)
BLOCKS = Chain()
PROOFS = make_proofs(2)
GOOD = make_next(
    BLOCKS.tips[1],
    epoch=0,
    view=5,
    anchor=BLOCKS.parent,
    producer=1,
    transactions=(b"a", b"b"),
    in_cursor=(Counter(2, 2),),
    in_root=compute_in_root(PROOFS),
)
MINTED = replace(GOOD, post_root=name("a million for me"))
COMMITTEE = draw_committee(SEED, 1, 5, TOWN.powers)
WITNESS = b"the buckets"


def execute(produced):
    """Execute as everybody should: the witness is read, the header is recomputed."""
    if produced.witness != WITNESS:
        raise RemoteError("not under pre_root")
    if produced.transactions != (b"a", b"b"):
        return Reexecution(None, "transaction 0 cannot stand here")
    return Reexecution(GOOD)


def sign(header, key=None):
    message = compute_producer_bytes(
        CHAIN, get_slot(header), compute_chunk_hash(header)
    )
    return TOWN.keys[header.producer if key is None else key].sign(message)


def make_proof(header=MINTED, signers=COMMITTEE.members[:2], **changes):
    fields = {
        "header": header,
        "certificate": TOWN.certify(header, signers),
        "producer_signature": None,
        "transactions": (b"a", b"b"),
        "packets": PROOFS,
        "witness": WITNESS,
    }
    return FraudProof(**(fields | changes))


def judge(proof, execute=execute):
    again = decode_fraud(encode(proof))
    assert again == proof
    return judge_fraud(again, COMMITTEE, TOWN.validators, CHAIN, TOWN.scheme, execute)


def test_endorsers_of_a_wrong_root():
    verdict = judge(make_proof())
    assert verdict.guilty == COMMITTEE.members[:2]
    assert "post_root" in verdict.difference
    assert verdict.header == MINTED
    assert verdict.fraud_id == compute_fraud_id(make_proof())
    notice = build_notice(make_proof(), TOWN.validators)
    halt = build_halt(notice, 77)
    assert halt == Halt(1, compute_chunk_hash(MINTED), verdict.fraud_id, 77)
    assert decode(Halt, encode(halt)) == halt


def test_more_than_a_third_of_the_stake_loses_everything():
    """Three times the part that was convicted: any certificate is enough for 100 %."""
    verdict = judge(make_proof())
    convicted = sum(TOWN.powers[i] for i in verdict.guilty)
    assert 3 * convicted > sum(TOWN.powers)


def test_the_producer_answers_for_its_signature():
    header = replace(MINTED, producer=next(iter({0, 1, 2, 3} - {*COMMITTEE.members})))
    signers = COMMITTEE.members[:2]
    assert judge(make_proof(header, signers)).guilty == signers
    proof = make_proof(header, signers, producer_signature=sign(header))
    assert judge(proof).guilty == tuple(sorted({*signers, header.producer}))


def refuse(produced):
    raise InvalidChunk("transaction 0 cannot stand here")


@pytest.mark.parametrize("execute", [execute, refuse])
def test_a_body_that_cannot_be_executed(execute):
    header = make_next(
        BLOCKS.tips[1],
        epoch=0,
        view=5,
        anchor=BLOCKS.parent,
        producer=1,
        transactions=(b"without a signature",),
    )
    proof = make_proof(header, transactions=(b"without a signature",), packets=())
    assert judge(proof, execute).difference == "transaction 0 cannot stand here"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"header": GOOD, "certificate": TOWN.certify(GOOD, [0, 1, 2])}, "endorsed"),
        ({"witness": b"other buckets"}, "witness of no use"),
        ({"transactions": (b"b", b"a")}, "other transactions"),
        ({"transactions": (b"a",)}, "1 transactions, not 2"),
        ({"packets": PROOFS[:1]}, "other packets"),
        ({"certificate": TOWN.certify(GOOD, COMMITTEE.members)}, "does not verify"),
        ({"certificate": TOWN.certify(MINTED, COMMITTEE.members[:1])}, "weight 10"),
        ({"producer_signature": sign(GOOD)}, "did not sign"),
        ({"producer_signature": sign(MINTED, key=2)}, "did not sign"),
    ],
)
def test_proofs_that_prove_nothing(changes, match):
    with pytest.raises(InvalidShardEvidence, match=match):
        judge(make_proof(**changes))


def test_a_chunk_of_a_block_needs_no_seed():
    """Its epoch's committees may be forgotten; signatures still convict."""
    few = TOWN.certify(MINTED, [COMMITTEE.members[0]])
    args = TOWN.validators, CHAIN, TOWN.scheme, execute
    verdict = judge_fraud(make_proof(certificate=few), None, *args)
    assert verdict.guilty == COMMITTEE.members[:1]
    forged = make_proof(certificate=TOWN.certify(GOOD, COMMITTEE.members))
    with pytest.raises(InvalidShardEvidence, match="does not verify"):
        judge_fraud(forged, None, *args)


def test_a_good_chunk_convicts_nobody():
    with pytest.raises(InvalidShardEvidence, match="what its header says"):
        judge(make_proof(GOOD))


def test_what_is_missing_here_is_nobodys_fault():
    def wait(produced):
        raise MissingError("the anchor is not held")

    with pytest.raises(MissingError):
        judge(make_proof(), wait)


def test_execution_comes_last():
    """Nobody makes others execute with a proof whose signatures are forged."""

    def never(produced):
        raise AssertionError("executed for nothing")

    forged = TOWN.certify(GOOD, COMMITTEE.members)
    with pytest.raises(InvalidShardEvidence):
        judge(make_proof(certificate=forged), never)


def test_one_wrong_chunk_is_one_fraud():
    again = make_proof(signers=COMMITTEE.members, producer_signature=sign(MINTED))
    assert compute_fraud_id(again) == compute_fraud_id(make_proof())
    assert compute_fraud_id(again) != compute_fraud_id(make_proof(GOOD))


@pytest.mark.parametrize("data", [b"", b"\x90", bytes(100), encode(GOOD)])
def test_bytes_that_are_no_proof(data):
    with pytest.raises(InvalidShardEvidence):
        decode_fraud(data)


def test_proofs_are_bounded():
    with pytest.raises(InvalidShardEvidence):
        decode_fraud(bytes(MAX_FRAUD_BYTES + 1))

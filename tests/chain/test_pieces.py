"""Pieces of evidence of every kind, as blocks and gossip carry them."""

import pytest
from evidence_court import CHAIN, Court, make_certificate_pair, make_vote_pair
from hypothesis import given
from hypothesis import strategies as st

from chain.records.pieces import (
    compute_piece_id,
    decode_piece,
    find_piece_accused,
    get_misdeed,
    get_piece_place,
    validate_signed,
)
from consensus.errors import InvalidEvidence
from primitives.codec import encode
from shards.certificate import (
    build_chunk_certificate,
    compute_endorsement_bytes,
    compute_producer_bytes,
)
from shards.evidence import (
    Endorsed,
    build_double_endorsement,
    build_double_production,
)
from shards.messages import ProducerSignature
from shards.slots import Slot

COURT = Court()
SLOT = Slot(3, 1, 7)
ONE, TWO = b"1" * 32, b"2" * 32


def endorse(chunk_hash, signers):
    message = compute_endorsement_bytes(CHAIN, SLOT, chunk_hash)
    signatures = {i: COURT.keys[i].sign(message) for i in signers}
    certificate = build_chunk_certificate(signatures, COURT.set, COURT.scheme)
    return Endorsed(chunk_hash, certificate)


def produce(chunk_hash, signer):
    message = compute_producer_bytes(CHAIN, SLOT, chunk_hash)
    return ProducerSignature(SLOT, chunk_hash, signer, COURT.keys[signer].sign(message))


E4 = build_double_endorsement(SLOT, endorse(ONE, [0, 1, 2]), endorse(TWO, [1, 2, 3]))
E6 = build_double_production(produce(ONE, 3), produce(TWO, 3))
PIECES = [
    (make_vote_pair(COURT, 2), (2,), "nullify_and_finalize"),
    (make_certificate_pair(COURT, [0, 1, 2]), (0, 1, 2), None),
    (E4, (1, 2), "double_endorse"),
    (E6, (3,), "double_produce"),
]


@pytest.mark.parametrize(("piece", "guilty", "word"), PIECES)
def test_every_kind_is_judged_the_same_way(piece, guilty, word):
    again = decode_piece(encode(piece))
    assert again == piece
    assert get_piece_place(again) == (3, 7)
    assert word is None or get_misdeed(again) == word
    assert find_piece_accused(again, COURT.set) == guilty
    assert validate_signed(again, COURT.set, CHAIN, COURT.scheme) == guilty
    with pytest.raises(InvalidEvidence):
        validate_signed(again, COURT.set, b"d" * 32, COURT.scheme)


def test_every_piece_has_a_name_and_a_word_of_its_own():
    assert len({compute_piece_id(piece) for piece, _, _ in PIECES}) == len(PIECES)
    assert len({get_misdeed(piece) for piece, _, _ in PIECES}) >= 3


@given(st.binary(max_size=1100))
def test_bytes_that_are_no_piece(data):
    with pytest.raises(InvalidEvidence):
        decode_piece(data)


@pytest.mark.parametrize(("piece", "guilty", "word"), PIECES)
def test_damaged_pieces(piece, guilty, word):
    def judge(data):
        validate_signed(decode_piece(data), COURT.set, CHAIN, COURT.scheme)

    data = encode(piece)
    for place in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(InvalidEvidence):
            judge(bytes(damaged))

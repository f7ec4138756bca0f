"""Chunk certificates: what is one, and what only looks like one."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_world import CHAIN, SEED, Chain, Town, make_next, name, replace

from consensus.validators import encode_bitmap
from p2pchain.sim.signatures import RealKeys
from primitives.codec import decode, encode
from shards.certificate import (
    CertifiedChunk,
    ChunkCertificate,
    compute_endorsement_bytes,
    compute_producer_bytes,
    read_chunk_certificate,
    validate_chunk_certificate,
    verify_endorsements,
)
from shards.committee import draw_committee
from shards.errors import InvalidChunkCertificate
from shards.slots import Slot

TOWN = Town([100, 100, 100, 100])
CHAIN_OF_BLOCKS = Chain()
HEADER = make_next(
    CHAIN_OF_BLOCKS.tips[1],
    epoch=0,
    view=5,
    anchor=CHAIN_OF_BLOCKS.parent,
    producer=1,
)
COMMITTEE = draw_committee(SEED, 1, 5, TOWN.powers)


def check(certificate, *, header=HEADER, chain_id=CHAIN, valid=True, match=""):
    args = (
        header,
        certificate,
        COMMITTEE,
        TOWN.validators,
        chain_id,
        TOWN.scheme,
    )
    if valid:
        validate_chunk_certificate(*args)
        return
    with pytest.raises(InvalidChunkCertificate, match=match):
        validate_chunk_certificate(*args)


@given(st.sets(st.sampled_from(COMMITTEE.members), min_size=1))
def test_enough_members(signers):
    certificate = TOWN.certify(HEADER, signers)
    check(certificate, valid=len(signers) >= 2, match="weight 100 < 134")
    assert decode(ChunkCertificate, encode(certificate)) == certificate
    chunk = CertifiedChunk(HEADER, certificate)
    assert decode(CertifiedChunk, encode(chunk)) == chunk


def test_somebody_who_is_no_member():
    outsider = ({0, 1, 2, 3} - set(COMMITTEE.members)).pop()
    signers = [*COMMITTEE.members, outsider]
    check(TOWN.certify(HEADER, signers), valid=False, match="not a member")


@pytest.mark.parametrize("bitmap", [b"", b"\x00\x00", b"\x10", b"\xff"])
def test_no_bitmaps(bitmap):
    certificate = TOWN.certify(HEADER, COMMITTEE.members)
    check(replace(certificate, bitmap=bitmap), valid=False, match="bitmap")


def test_more_in_the_bitmap_than_signed():
    some = TOWN.certify(HEADER, COMMITTEE.members[:2])
    more = replace(some, bitmap=encode_bitmap(COMMITTEE.members, 4))
    check(more, valid=False, match="signature")


@pytest.mark.parametrize(
    "changes",
    [
        {"post_root": name("another")},
        {"created_view": 6},
        {"epoch": 1},
        {"shard": 2},
    ],
)
def test_another_chunk(changes):
    certificate = TOWN.certify(HEADER, COMMITTEE.members)
    check(
        certificate, header=replace(HEADER, **changes), valid=False, match="signature"
    )


def test_another_chain():
    certificate = TOWN.certify(HEADER, COMMITTEE.members)
    check(certificate, chain_id=name("other chain"), valid=False, match="signature")


def test_a_producer_signs_something_else_than_an_endorser():
    slot = Slot(1, 2, 3)
    signed = {
        make(chain, s, chunk_hash)
        for make in (compute_producer_bytes, compute_endorsement_bytes)
        for chain in (CHAIN, name("other chain"))
        for s in (slot, replace(slot, epoch=2), replace(slot, shard=3))
        for chunk_hash in (name("a"), name("b"))
    }
    assert len(signed) == 24


def test_with_real_signatures():
    town = Town([100] * 4, RealKeys())
    good = town.certify(HEADER, COMMITTEE.members[:2])
    forged = replace(good, signature=town.certify(HEADER, [0]).signature)
    for certificate, is_good in ((good, True), (forged, False)):
        try:
            validate_chunk_certificate(
                HEADER, certificate, COMMITTEE, town.validators, CHAIN, town.scheme
            )
        except InvalidChunkCertificate:
            assert not is_good
        else:
            assert is_good


class CountingScheme:
    """Real signatures, and how they were verified."""

    def __init__(self, scheme):
        self._scheme = scheme
        self.singles = self.batches = 0

    def verify_batch(self, items):
        self.batches += 1
        return self._scheme.verify_batch(items)

    def fast_aggregate_verify(self, *item):
        self.singles += 1
        return self._scheme.fast_aggregate_verify(*item)


@pytest.mark.parametrize("forged", [(), (0,), (2,), (1, 2)])
def test_those_of_a_block_in_one_check(forged):
    """Also where two errors would cancel each other out in a sum."""
    town = Town([100] * 4, RealKeys())
    scheme = CountingScheme(town.scheme)
    endorsed = []
    for shard in (1, 2, 3):
        header = replace(HEADER, shard=shard)
        committee = draw_committee(SEED, shard, 5, town.powers)
        certificate = town.certify(header, committee.members[:2])
        endorsed.append(
            read_chunk_certificate(
                header, certificate, committee, town.validators, CHAIN
            )
        )
    signatures = [each.signature for each in endorsed]
    for index, other in zip(forged, reversed(forged), strict=True):
        wrong = signatures[other if other != index else index - 1]
        changes = {"signature": wrong}
        endorsed[index] = dataclasses.replace(endorsed[index], **changes)
    if forged:
        match = f"of the chunk of shard {forged[0] + 1}$"
        with pytest.raises(InvalidChunkCertificate, match=match):
            verify_endorsements(endorsed, scheme)
        assert (scheme.batches, scheme.singles) == (1, forged[0] + 1)
    else:
        verify_endorsements(endorsed, scheme)
        assert (scheme.batches, scheme.singles) == (1, 0)
        verify_endorsements(endorsed[:1], scheme)
        assert (scheme.batches, scheme.singles) == (1, 1)
        verify_endorsements([], scheme)

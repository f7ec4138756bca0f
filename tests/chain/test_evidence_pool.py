"""The evidence pool: what is taken, what is handed out, and that it stays small."""

import msgspec
import pytest
from evidence_court import make_proposal, make_vote_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from slashing_world import EVIDENCE_EPOCHS, SlashingWorld

from chain.errors import InvalidBlock, UselessEvidence
from chain.records.block import MAX_EVIDENCE
from chain.records.pieces import compute_piece_id
from chain.rewarding.evidence import EvidenceJudge
from chain.tree.evidence_pool import EvidencePool
from consensus.errors import InvalidEvidence
from consensus.evidence import build_evidence, decode_evidence
from consensus.messages import Kind
from primitives.codec import encode


def add(world, evidence):
    return world.pool.add(encode(evidence), world.state.get)


def pick(world):
    return world.pool.pick(world.state.get)


def test_a_piece_waits_until_it_is_applied():
    world = SlashingWorld()
    evidence = world.votes(3)
    verdict = add(world, evidence)
    assert verdict.guilty == (world.court.keys[3].public_key,)
    assert verdict.evidence_id == compute_piece_id(evidence) in world.pool
    assert [piece.verdict for piece in world.pool.list_pieces()] == [verdict]
    assert pick(world) == (encode(evidence),)
    world.pool.revalidate(world.state.get)
    assert pick(world) == (encode(evidence),)
    world.include(*pick(world))
    assert pick(world) == ()
    world.pool.revalidate(world.state.get)
    assert len(world.pool) == 0


def test_a_second_piece_against_the_same_is_old_news():
    world = SlashingWorld()
    add(world, world.votes(3))
    world.court.scheme.pairings = 0
    for again in (world.votes(3), world.votes(3, world.epoch - 1)):
        with pytest.raises(UselessEvidence, match="already"):
            add(world, again)
    assert world.court.scheme.pairings == 0
    assert len(world.pool) == 1


def test_a_piece_against_the_convicted_is_useless():
    world = SlashingWorld()
    world.include(world.votes(3))
    with pytest.raises(UselessEvidence, match="could still be convicted"):
        add(world, world.votes(3, world.epoch - 1))


def test_a_cheat_cannot_fill_the_pool():
    world = SlashingWorld()
    for view in range(1, 200):
        pair = build_evidence(
            world.court.vote(
                Kind.FINALIZATION, make_proposal(view, epoch=world.epoch), 3
            ),
            world.court.vote(Kind.NULLIFICATION, (world.epoch, view), 3),
        )
        if view == 1:
            add(world, pair)
        else:
            with pytest.raises(UselessEvidence):
                add(world, pair)
    assert len(world.pool) == 1


@pytest.mark.parametrize("ahead", [2, 3, 100])
def test_evidence_of_an_epoch_that_we_have_not_reached(ahead):
    world = SlashingWorld()
    with pytest.raises(UselessEvidence):
        add(world, world.votes(3, world.epoch + ahead))


def test_evidence_of_the_next_epoch_waits_for_it():
    world = SlashingWorld()
    evidence = world.votes(3, world.epoch + 1)
    add(world, evidence)
    assert pick(world) == ()
    world.pool.revalidate(world.state.get)
    assert len(world.pool) == 1
    world.end_epoch()
    assert pick(world) == (encode(evidence),)
    world.include(*pick(world))


def test_evidence_that_waits_for_its_epoch_spares_nobody_before():
    world = SlashingWorld()
    later, now = world.votes(3, world.epoch + 1), world.votes(3)
    add(world, later)
    add(world, now)
    assert pick(world) == (encode(now),)
    with pytest.raises(UselessEvidence, match="already"):
        add(world, later)
    world.include(*pick(world))
    world.pool.revalidate(world.state.get)
    assert len(world.pool) == 0


def test_a_piece_that_grew_too_old_spares_nobody():
    world = SlashingWorld()
    oldest = world.votes(3, world.epoch - EVIDENCE_EPOCHS)
    add(world, oldest)
    add(world, world.certificates(range(7)))
    world.end_epoch()
    world.pool.revalidate(world.state.get)
    assert len(pick(world)) == 1
    world.include(*pick(world))
    assert world.stake(3).offence is not None


def test_evidence_at_the_age_limit_and_beyond():
    world = SlashingWorld()
    oldest = world.epoch - EVIDENCE_EPOCHS
    add(world, world.votes(3, oldest))
    for too_old in (oldest - 1, oldest - 2, 0):
        with pytest.raises(UselessEvidence):
            add(world, world.votes(4, too_old))
    assert len(pick(world)) == 1
    world.end_epoch()
    assert pick(world) == ()
    world.pool.revalidate(world.state.get)
    assert len(world.pool) == 0


def test_what_proves_nothing_is_the_senders_fault():
    world = SlashingWorld()
    pair = world.votes(3)
    forged = msgspec.structs.replace(pair.first, signature=bytes(96))
    for data in (b"", b"noise", encode(type(pair)(forged, pair.second))):
        with pytest.raises(InvalidEvidence):
            world.pool.add(data, world.state.get)
    assert len(world.pool) == 0


def test_who_convicts_most_goes_first():
    world = SlashingWorld()
    for signer in range(3):
        add(world, world.votes(signer))
    many = world.certificates(range(2, 10))
    add(world, many)
    picked = pick(world)
    assert picked[0] == encode(many)
    # Validator 2 is convicted by the certificates already.
    assert set(picked[1:]) == {encode(world.votes(0)), encode(world.votes(1))}
    world.include(*picked)
    world.pool.revalidate(world.state.get)
    assert len(world.pool) == 0


def test_a_block_takes_eight_and_the_next_one_the_rest():
    world = SlashingWorld((100,) * 12)
    for signer in range(12):
        add(world, world.votes(signer))
    first = pick(world)
    assert len(first) == MAX_EVIDENCE == 8
    world.include(*first)
    second = pick(world)
    assert len(second) == 4
    assert not set(first) & set(second)
    world.include(*second)
    assert pick(world) == ()


def test_the_judge_forgets_the_oldest_verdicts_only():
    world = SlashingWorld()
    world.judge = EvidenceJudge(world.context.chain_id, world.court.scheme, capacity=2)
    pool = EvidencePool(world.judge, EVIDENCE_EPOCHS)
    for signer in range(3):
        pool.add(encode(world.votes(signer)), world.state.get)
    world.court.scheme.pairings = 0
    world.include(world.votes(2))
    assert world.court.scheme.pairings == 0
    world.include(world.votes(0))
    assert world.court.scheme.pairings == 2


@settings(max_examples=80)
@given(st.data())
def test_what_the_pool_picks_is_always_valid(data):
    """Whatever comes in whatever order, a leader's block is never refused for it."""
    world = SlashingWorld((100,) * 7)
    signers = st.integers(0, 6)
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["votes", "certificates", "block", "epoch"])):
            case "votes":
                epoch = world.epoch + data.draw(st.integers(-EVIDENCE_EPOCHS - 2, 2))
                piece = make_vote_pair(world.court, data.draw(signers), epoch)
            case "certificates":
                epoch = world.epoch + data.draw(st.integers(-EVIDENCE_EPOCHS - 2, 2))
                members = data.draw(st.sets(signers, min_size=5))
                piece = world.certificates(sorted(members), epoch)
            case "block":
                world.include(*pick(world), proposer=data.draw(signers))
                world.pool.revalidate(world.state.get)
                continue
            case "epoch":
                for _ in range(data.draw(st.sampled_from([1, 1, EVIDENCE_EPOCHS]))):
                    world.end_epoch()
                    world.pool.revalidate(world.state.get)
                continue
        try:
            verdict = add(world, piece)
        except UselessEvidence:
            with pytest.raises(InvalidBlock):
                # Nor would a block take it, but for what waits already.
                world.include(*pick(world), encode(piece))
        else:
            assert decode_evidence(encode(piece)) == piece
            assert verdict.evidence_id in world.pool
        assert len(world.pool) <= 2 * world.court.size
    assert world.count_atoms() == world.supply

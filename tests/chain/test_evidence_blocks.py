"""Evidence in real blocks: judged by a second node, applied once, paid to the end."""

import msgspec
import pytest
from chain_world import COIN, World
from epoch_world import (
    EPOCH_BLOCKS,
    EVIDENCE_EPOCHS,
    PEOPLE,
    STAKE,
    UNBONDING_EPOCHS,
    EpochWorld,
)
from evidence_court import (
    Court,
    make_certificate_pair,
    make_proposal,
    make_vote_pair,
)

from chain.checks.conservation import compute_conservation
from chain.errors import InvalidBlock
from chain.ledger.stake import StakeStatus
from chain.queries.queries import Queries
from chain.records.block import Block, compute_evidence_root
from chain.records.staking import Unbond
from chain.rewarding.slashing import REWARD_EVENT, SETTLE_EVENT, SLASH_EVENT
from chain.tree.evidence_pool import EvidencePool
from consensus.evidence import build_evidence
from consensus.messages import Kind
from genesis.validation import MIN_BLOCK_BYTES
from p2pchain.sim.chains.committee import hand_bodies
from primitives import bls
from primitives.codec import encode

replace = msgspec.structs.replace
ATOMS = STAKE * COIN


class PeopleCourt(Court):
    """Everybody in the order in which they joined."""

    def make_key(self, index):
        return PEOPLE[index].key


def court_of(world, size):
    return PeopleCourt(size, chain=world.spec.chain_id, scheme=bls)


def votes(world, index, epoch=None, size=10):
    epoch = world.epoch if epoch is None else epoch
    return encode(make_vote_pair(court_of(world, size), index, epoch))


def certificates(world, signers, size=10):
    return encode(make_certificate_pair(court_of(world, size), signers, world.epoch))


def make_world(size=10, **changes):
    return EpochWorld((STAKE,) * size, **({"epoch_reward": 0} | changes))


def refuse(world, match, *evidence):
    """Neither the leader nor the other node takes it; the chain goes on without."""
    before = world.tree.pending
    with pytest.raises(InvalidBlock, match=match):
        world.build(evidence=evidence)
    assert world.tree.pending == before
    held = world.build()
    header = replace(held.header, evidence_root=compute_evidence_root(evidence))
    body = replace(held.block.body, evidence=evidence)
    with pytest.raises(InvalidBlock, match=match):
        world.judge.tree.add(encode(Block(header, body)), held.header.time_ms)
    world.finalize(held)


def settle_epochs(world):
    """Go to the first epoch after the window of what was included in this one."""
    world.end_epoch(EVIDENCE_EPOCHS + 1)


def test_a_conviction_from_block_to_payout():
    world = make_world()
    world.step()
    held = world.step(evidence=(votes(world, 3),))
    included = world.epoch
    reporter = PEOPLE[held.header.proposer]
    penalty, reward = ATOMS // 20, ATOMS // 400
    stake = world.stake(PEOPLE[3])
    assert (stake.status, stake.bonded) == (StakeStatus.TOMBSTONED, ATOMS - penalty)
    events = world.tree.store.get_system_events(held.height)
    assert [(e.kind, e.amount) for e in events[:1]] == [(SLASH_EVENT, penalty)]
    if reporter is not PEOPLE[3]:
        assert (events[1].kind, events[1].amount) == (REWARD_EVENT, reward)
        assert events[1].addresses == (reporter.address,)
    assert world.is_conserved()

    settle_epochs(world)
    kinds = [kind for kind, _, _ in world.events(world.tree.final_height)]
    assert SETTLE_EVENT in kinds
    stake = world.stake(PEOPLE[3])
    # One of ten: thirty percent; what is left waits as if unbonded at the inclusion.
    assert (stake.slashed, stake.bonded) == (3 * ATOMS // 10, 0)
    [entry] = stake.unbonding
    assert entry.amount == 7 * ATOMS // 10
    assert entry.due_epoch == included + UNBONDING_EPOCHS
    assert compute_conservation(world.tree).unbonding == entry.amount
    assert world.is_conserved()

    before = world.balance(PEOPLE[3])
    world.end_epoch(entry.due_epoch - world.epoch)
    assert world.balance(PEOPLE[3]) == before
    world.end_epoch()
    assert world.balance(PEOPLE[3]) == before + entry.amount
    assert world.stake(PEOPLE[3]) is None
    assert world.is_conserved()
    books = compute_conservation(world.tree)
    assert books.burned == 3 * ATOMS // 10 - (reward if len(events) > 1 else 0)


def test_the_convicted_leave_the_set():
    world = make_world()
    world.step(evidence=(votes(world, 3),))
    assert "v3" in world.powers(0)
    world.end_epoch()
    assert "v3" in world.powers(1)
    assert "v3" not in world.powers(2)
    world.end_epoch(2)
    assert len(world.keys()) == 9


def test_evidence_is_applied_once():
    world = make_world()
    evidence = votes(world, 3)
    refuse(world, "evidence 1", evidence, evidence)
    world.step(evidence=(evidence,))
    refuse(world, "could still be convicted", evidence)
    refuse(world, "could still be convicted", votes(world, 4), evidence)
    while world.epoch < 2:
        world.end_epoch()
    # Its votes of the epoch in which it was convicted: a new offence, no new penalty.
    refuse(world, "could still be convicted", votes(world, 3, 1))


def test_evidence_on_two_branches_is_applied_on_each():
    world = make_world()
    world.step()
    parent = world.tree.final
    one = world.build(parent=parent, evidence=(votes(world, 3),))
    two = world.build(parent=parent, view=7, evidence=(votes(world, 3),))
    with pytest.raises(InvalidBlock):
        world.build(parent=one, evidence=(votes(world, 3),))
    beside = world.build(parent=parent, view=8)
    above = world.build(parent=beside, evidence=(votes(world, 3),))
    for held in (two, beside, above):
        hand_bodies(held, world.judge.tree)
        world.judge.tree.add(held.block_bytes, held.header.time_ms, held.proposal)
    world.finalize(two)
    assert world.stake(PEOPLE[3]).status == StakeStatus.TOMBSTONED


def test_what_proves_nothing_makes_a_block_invalid():
    world = make_world()
    world.step()
    pair = make_vote_pair(court_of(world, 10), 3, world.epoch)
    forged = replace(pair.second, signature=pair.first.signature)
    turned = type(pair)(pair.second, pair.first)
    refuse(world, "did not sign", encode(type(pair)(pair.first, forged)))
    refuse(world, "order", encode(turned))
    refuse(world, "not evidence", b"\x01")
    later = world.epoch + 1
    refuse(world, f"of epoch {later}, now", votes(world, 3, later))


def test_evidence_at_the_age_limit_and_one_epoch_beyond():
    world = make_world(evidence_epochs=2, unbonding_epochs=7)
    oldest = votes(world, 3, 0), votes(world, 4, 0)
    world.end_epoch(2)
    assert world.epoch == 2
    world.step(evidence=oldest[:1])
    world.end_epoch()
    refuse(world, "of epoch 0, now it is 3", oldest[1])
    world.step(evidence=(votes(world, 4, 1),))


def test_evidence_of_an_epoch_with_another_set():
    world = make_world(5, evidence_epochs=3, unbonding_epochs=8)
    world.unbond(PEOPLE[0], STAKE)
    world.end_epoch(2)
    assert list(world.powers()) == ["v1", "v2", "v3", "v4"]
    # In epoch 0 v3 had index 3, in this one it has index 2.
    world.step(evidence=(votes(world, 3, 0, 5),))
    assert world.stake(PEOPLE[3]).status == StakeStatus.TOMBSTONED
    refuse(world, "did not sign", votes(world, 1, 2, 5))
    now = PeopleCourt(5, chain=world.spec.chain_id, scheme=bls)
    now.keys = now.keys[1:]
    world.step(evidence=(encode(make_vote_pair(now, 1, world.epoch)),))
    assert world.stake(PEOPLE[2]).status == StakeStatus.TOMBSTONED
    # Who has left and whose atoms still unbond is within reach too.
    assert world.stake(PEOPLE[0]).unbonding_amount == ATOMS
    world.step(evidence=(votes(world, 0, 1, 5),))
    assert world.stake(PEOPLE[0]).bonded == ATOMS - ATOMS // 20
    assert world.is_conserved()


def test_a_third_loses_everything_and_the_chain_goes_on():
    world = make_world(7)
    # Certificates of the same quorum for two blocks: five of seven.
    world.step(evidence=(certificates(world, range(5), 7),))
    settle_epochs(world)
    for index in range(5):
        assert world.stake(PEOPLE[index]).locked == 0
        assert world.stake(PEOPLE[index]).slashed == ATOMS
    world.end_epoch(2)
    assert set(world.powers()) >= {"v5", "v6"}
    assert world.is_conserved()


def test_a_vote_beside_a_certificate_costs_its_signer_alone():
    world = make_world()
    court = court_of(world, 10)
    proposal = make_proposal(epoch=world.epoch)
    certificate = court.certify(Kind.FINALIZATION, proposal, range(7))
    vote = court.vote(Kind.NULLIFICATION, (world.epoch, proposal.view), 3)
    piece = encode(build_evidence(certificate, vote))
    world.step(evidence=(piece,))
    assert [world.stake(person).status for person in PEOPLE[:10]] == [
        StakeStatus.TOMBSTONED if index == 3 else StakeStatus.ACTIVE
        for index in range(10)
    ]
    # Two votes of the same offence, or the certificate once more, are old news.
    refuse(world, "nobody", piece)
    refuse(world, "nobody", votes(world, 3))
    # Whom the certificate does not count may have nullified.
    innocent = court.vote(Kind.NULLIFICATION, (world.epoch, proposal.view), 8)
    slander = encode(build_evidence(certificate, innocent))
    refuse(world, "does not count", slander)
    assert world.is_conserved()


def test_evidence_at_a_boundary_comes_before_its_end():
    world = make_world(4, epoch_reward=60 * COIN)
    while world.tree.final_height % EPOCH_BLOCKS != EPOCH_BLOCKS - 1:
        world.step()
    world.step(evidence=(votes(world, 3, size=4),))
    stake = world.stake(PEOPLE[3])
    assert stake.offence.slashed_epoch == 0
    assert world.epoch == 1
    assert "v3" not in world.powers(2)
    assert world.is_conserved()


def test_evidence_and_transactions_in_one_block():
    world = make_world()
    world.step()
    signed = [world.sign(p.account, Unbond(ATOMS), 0) for p in PEOPLE[3:5]]
    held = world.step(*signed, evidence=(votes(world, 3),))
    outcomes = world.tree.store.get_outcomes(held.height, 0)
    # The conviction comes first, whatever the culprit asks in the same block.
    assert [outcome.code for outcome in outcomes] == ["tombstoned", ""]
    assert world.is_conserved()


def test_a_saved_block_with_evidence_survives_a_crash():
    world = make_world()
    world.step()
    held = world.build(evidence=(votes(world, 3), votes(world, 4)))
    world.tree.save_pending(held.block_hash)
    world.reopen()
    assert world.tree.has(held.block_hash)
    world.finalize(world.tree.get(held.block_hash))
    assert world.stake(PEOPLE[4]).status == StakeStatus.TOMBSTONED
    root = world.tree.final.header.roots_root
    world.reopen()
    assert world.tree.final.header.roots_root == root
    [last, first] = world.tree.store.kv.iterate(b"X", reverse=True)
    assert first[0] < last[0]


def test_a_late_node_replays_the_conviction():
    world = make_world()
    world.step(evidence=(votes(world, 3),))
    settle_epochs(world)
    late = World(spec=world.spec)
    for height in range(1, world.tree.final_height + 1):
        data, certificate = world.tree.get_final(height)
        late.tree.add(data, world.now_ms)
        late.tree.finalize(certificate)
    assert late.tree.final_hash == world.tree.final_hash


def test_a_full_block_still_has_room_for_evidence():
    world = make_world(12, block_bytes=MIN_BLOCK_BYTES, block_work=2**31)
    pool = EvidencePool(world.tree.judge, EVIDENCE_EPOCHS)
    read = world.ledger()._read
    for index in range(8):
        pool.add(votes(world, index, size=12), read)
    flood = [
        world.sign(PEOPLE[i].account, Unbond(ATOMS), 0, nonce=n)
        for i in range(12)
        for n in range(130)
    ]
    held = world.build(*flood, evidence=pool.pick(read))
    assert len(held.block.body.evidence) == 8
    (chunk,) = held.chunks
    assert len(chunk.transactions) < len(flood)
    assert 0.9 * MIN_BLOCK_BYTES < len(held.block_bytes) <= MIN_BLOCK_BYTES
    world.finalize(held)


def test_the_queries_tell_who_was_convicted():
    world = make_world()
    queries = Queries(world.tree)
    assert queries.evidence.list_evidence().items == ()
    world.step(evidence=(votes(world, 3), certificates(world, range(7))))
    world.step(evidence=(votes(world, 8),))
    newest, many, few = queries.evidence.list_evidence().items
    assert few.taken == ((PEOPLE[3].address, ATOMS // 20),)
    assert few.misdeed == "nullify_and_finalize"
    # In order of the piece's place; validator 3 was convicted before.
    assert len(many.taken) == 6
    assert many.misdeed == "double_notarize"
    assert newest.height == few.height + 1
    page = queries.evidence.list_evidence(limit=1)
    assert page.items == (newest,)
    assert queries.evidence.list_evidence(page.next).items == (many, few)

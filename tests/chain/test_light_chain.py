"""The light client beside a chain that really executes, over epochs and stakes."""

import msgspec
import pytest
from chain_world import COIN
from epoch_world import EPOCH_BLOCKS, EpochWorld
from light_world import list_mutations, verify_header, verify_state

from chain.errors import OtherEpoch
from chain.ledger.roster import get_validators
from chain.ledger.stake import Stake
from chain.light.client import (
    MAX_LINKS,
    LightChain,
    LightState,
    adopt,
    adopt_state,
    advance,
)
from chain.light.sync import MAX_PROOFS, AskBlock, AskProofs, LightSync
from chain.queries.light import LightQueries
from chain.queries.queries import Queries
from chain.records.header import compute_block_hash
from chain.records.keys import build_account_key, build_stake_key
from consensus.messages import compute_finalize_bytes
from primitives import bls
from primitives.codec import decode
from primitives.kv import MemoryStore

replace = msgspec.structs.replace


def get_first(world: EpochWorld) -> LightState:
    """Return the state of somebody who has the genesis."""
    chain = LightChain(
        chain_id=world.spec.chain_id,
        epoch_blocks=world.blocks,
        bucket_levels=world.spec.params.bucket_levels,
    )
    return LightState.from_set(chain, 0, world.spec.first_validators)


def follow(state: LightState, light: LightQueries) -> tuple[LightState, int]:
    """Catch up; return the number of questions too."""
    sync = LightSync(state, bls, 2**62)
    questions = 0
    while sync.ask is not None:
        questions += 1
        match sync.ask:
            case AskBlock(height):
                sync.on_block(light.build_block(height))
            case AskProofs(epoch, count):
                sync.on_proofs(light.list_proofs(epoch, count))
    return sync.state, questions


@pytest.fixture(scope="module")
def world() -> EpochWorld:
    """Twelve epochs in which validators join, leave, and change their stakes."""
    world = EpochWorld(is_judged=False)
    people = world.people
    for joins, leaves in [(5, None), (6, 0), (7, None), (None, 1), (8, 2), (None, 3)]:
        if joins is not None:
            assert world.bond(people[joins]).ok
        if leaves is not None:
            assert world.unbond(people[leaves], 1000).ok
        world.end_epoch()
    world.end_epoch(5)
    world.step()
    world.step()
    return world


@pytest.fixture(scope="module")
def light(world) -> LightQueries:
    return Queries(world.tree).light


def test_the_referee_accepts_every_final_block(world, light):
    state = get_first(world)
    assert len({world_set.compute_root() for world_set in list_sets(world)}) > 4
    for height in range(1, world.tree.final_height + 1):
        block = light.build_block(height)
        if block.header.epoch > state.epoch:
            state = advance(state, light.list_proofs(state.epoch, 1)[0], bls)
        assert state.validators == block.validators
        state = adopt(state, block, bls)
        assert state.newest == world.tree.store.get_block(height).header
    assert state.newest == world.tree.final.header


def list_sets(world):
    light = Queries(world.tree).light
    last = world.tree.final.header.epoch
    return [p.validators for p in light.list_proofs(0, last)]


@pytest.mark.parametrize("height", [1, EPOCH_BLOCKS, 22])
def test_and_none_that_is_changed(world, light, height):
    block = light.build_block(height)
    state = get_first(world)
    while state.epoch < block.header.epoch:
        state = advance(state, light.list_proofs(state.epoch, 1)[0], bls)
    assert verify_header(state, block, bls)
    for mutant in list_mutations(block.header):
        assert not verify_header(state, replace(block, headers=(mutant,)), bls)


def test_catching_up_from_genesis(world, light):
    state, questions = follow(get_first(world), light)
    assert state.newest == world.tree.final.header
    assert state.validators == world.tree.epoch.validators
    assert questions < 12
    again, questions = follow(state, light)
    assert (again, questions) == (state, 1)


def test_sets_stay_after_the_state_forgot_them(world, light):
    assert get_validators(world.ledger(), 2) is None
    assert light.build_block(2 * EPOCH_BLOCKS + 1).validators is not None
    # And after the database is opened again.
    twin = EpochWorld(store=world.store, is_judged=False)
    state, _ = follow(get_first(world), Queries(twin.tree).light)
    assert state.newest == world.tree.final.header


def test_values_stakes_and_absence(world, light):
    state, _ = follow(get_first(world), light)
    queries = Queries(world.tree)
    there, gone, never = world.people[8], world.people[0], bytes(32)
    key = build_stake_key(there.address)
    proof = queries.states.build_state_proof(0, key)
    state = adopt_state(state, 0, key, proof, bls)
    assert decode(Stake, proof.value).bonded == 1000 * COIN
    for shard in world.tree.layout.shard_ids:
        key = build_account_key(never)
        proof = queries.states.build_state_proof(shard, key)
        assert proof.value is None
        assert verify_state(state, shard, key, proof, bls)
        assert not verify_state(
            state, shard, build_account_key(gone.address), proof, bls
        )
    # Somebody who is still in an earlier epoch has to catch up first.
    with pytest.raises(OtherEpoch):
        adopt_state(get_first(world), proof.shard, proof.key, proof, bls)


def test_what_there_is_no_proof_of(world, light):
    height = world.tree.final_height
    assert light.build_block(0) is None
    assert light.build_block(-1) is None
    assert light.build_block(height + 1) is None
    epoch = world.tree.final.header.epoch
    assert light.list_proofs(epoch, 5) == ()
    assert light.list_proofs(2**40, 5) == ()
    assert len(light.list_proofs(0, 1000)) == min(MAX_PROOFS, epoch)
    fresh = EpochWorld(is_judged=False)
    assert Queries(fresh.tree).light.build_block() is None


def test_blocks_without_certificates_of_their_own():
    """As on a node that caught up, which has one certificate for a whole lot."""
    world = EpochWorld(is_judged=False, epoch_blocks=80)
    for _ in range(70):
        world.build()
    world.finalize(world.tip)
    light = Queries(world.tree).light
    state = get_first(world)
    block = light.build_block(70 - MAX_LINKS + 1)
    assert len(block.headers) == MAX_LINKS
    assert adopt(state, block, bls).newest.height == 70 - MAX_LINKS + 1
    assert light.build_block(70 - MAX_LINKS) is None
    assert follow(state, light)[0].newest == world.tree.final.header


def test_a_boundary_that_was_proposed_again():
    world = EpochWorld(is_judged=False)
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    boundary = world.build()
    proposal = replace(
        boundary.proposal, view=9, parent_view=4, parent_hash=boundary.block_hash
    )
    message = compute_finalize_bytes(world.spec.chain_id, proposal)
    keys = world.keys()
    certificate = replace(
        world.certify(boundary),
        proposal=proposal,
        view=9,
        signature=bls.aggregate([key.sign(message) for key in keys]),
    )
    world.tree.finalize(certificate)
    (proof,) = Queries(world.tree).light.list_proofs(0, 9)
    assert proof.certificate.view == 9
    state = advance(get_first(world), proof, bls)
    assert compute_block_hash(state.newest) == boundary.block_hash
    world.step()
    assert follow(state, Queries(world.tree).light)[0].epoch == 1


def test_a_network_of_many_quiet_epochs_takes_one_question():
    world = EpochWorld(store=MemoryStore(), is_judged=False, epoch_blocks=2)
    world.end_epoch(40)
    world.step()
    state, questions = follow(get_first(world), Queries(world.tree).light)
    assert (state.epoch, questions) == (40, 1)

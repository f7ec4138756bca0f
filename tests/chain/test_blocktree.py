"""The tree: building, judging, forks, finality, eviction."""

from dataclasses import replace

import msgspec
import pytest
from chain_world import ALICE, BOB, COIN, DAVE, SPEC, World, build_genesis

from chain.errors import (
    ConflictingFinal,
    InvalidBlock,
    MissingParent,
    TooManyPending,
    UnknownBlock,
)
from chain.records.transfer import Transfer
from chain.tree import pending
from genesis.state import build_chain_spec
from p2pchain.sim.chains.committee import hand_bodies


@pytest.fixture
def world():
    return World()


def pay(world, amount=COIN, shard=0, dst=0):
    return world.sign(ALICE, Transfer(DAVE.public_key, dst, amount), shard)


def copy(source: World, held, target: World) -> None:
    hand_bodies(held, target.tree)
    target.tree.add(held.block_bytes, held.header.time_ms, held.proposal)


def test_genesis_is_final(world):
    tree = world.tree
    assert (tree.final_height, tree.final_view, tree.pending) == (0, 0, ())
    assert tree.final_certificate is None
    assert tree.get_final(0) is None
    assert tree.has(tree.final_hash)
    assert tree.get_block_bytes(tree.final_hash)


def test_everybody_gets_the_same_roots_from_the_same_blocks(world):
    other = World()
    for _ in range(3):
        block = world.build(pay(world), pay(world, dst=2), pay(world, shard=1, dst=0))
        copy(world, block, other)
        assert (
            other.tree.get(block.block_hash).view.get_roots() == block.view.get_roots()
        )
        world.finalize(block)
        other.finalize(other.tree.get(block.block_hash))
    assert other.tree.final_hash == world.tree.final_hash
    assert other.tree.final.heads == world.tree.final.heads


def test_a_built_block_is_held_and_adding_it_again_changes_nothing(world):
    block = world.build(pay(world))
    assert world.tree.has(block.block_hash)
    assert world.tree.get_time_ms(block.block_hash) == block.header.time_ms
    copy(world, block, world)
    assert world.tree.get(block.block_hash) is block


def test_a_shard_with_nothing_to_do_has_no_chunk(world):
    block = world.build(pay(world, shard=2, dst=2))
    assert [chunk.header.shard for chunk in block.chunks] == [2]
    assert world.build(parent=block).chunks == ()


def test_chunks_link_by_seq_and_hash_over_blocks_without_them(world):
    world.advance(pay(world))
    world.advance()
    block = world.advance(pay(world))
    header = block.chunks[0].header
    assert header.seq == 2
    assert header.anchor == block.parent_hash
    assert header.pre_root != header.post_root


def test_forks_have_their_own_states(world):
    left = world.build(pay(world, 1), view=1)
    world.nonces.clear()
    right = world.build(pay(world, 2), parent=world.tree.final, view=2)
    assert left.view.get_roots() != right.view.get_roots()
    above_left = world.build(parent=left, view=3)
    above_right = world.build(parent=right, view=4)
    assert above_left.view.get_roots() == left.view.get_roots()
    world.finalize(above_right)
    assert world.tree.final_height == 2
    assert not world.tree.has(left.block_hash)
    assert not world.tree.has(above_left.block_hash)
    assert world.tree.pending == ()


def test_ancestors_become_final_with_their_descendant(world):
    first = world.build(pay(world))
    second = world.build(pay(world))
    third = world.build()
    certificate = world.certify(second)
    assert world.tree.finalize(certificate) == (first, second)
    assert world.tree.final_height == 2
    assert world.tree.pending == (third,)
    assert world.tree.get_final(1) == (first.block_bytes, certificate)
    assert world.tree.get_final(2) == (second.block_bytes, certificate)
    assert world.tree.get_final(3) is None
    # What stands above goes on from the folded state.
    fourth = world.build(pay(world), parent=third)
    world.finalize(fourth)
    assert world.tree.final_height == 4


def test_finalizing_again_changes_nothing(world):
    first = world.build()
    second = world.build()
    world.finalize(second)
    for held in (first, second):
        assert world.tree.finalize(world.certify(held)) == ()


def test_a_conflicting_certificate_is_reported(world):
    left = world.build(view=1)
    right = world.build(pay(world), parent=world.tree.final, view=2)
    certificate = world.certify(right)
    world.finalize(left)
    with pytest.raises(ConflictingFinal):
        world.tree.finalize(certificate)
    assert world.tree.final_hash == left.block_hash


def test_a_certificate_of_an_unknown_block_waits(world):
    other = World()
    block = other.build()
    with pytest.raises(UnknownBlock):
        world.tree.finalize(other.certify(block))


def test_a_block_without_its_parent_waits(world):
    other = World()
    first = other.build()
    second = other.build()
    with pytest.raises(MissingParent) as caught:
        copy(other, second, world)
    assert caught.value.parent_hash == first.block_hash
    copy(other, first, world)
    copy(other, second, world)


def test_a_block_beside_the_final_chain_is_invalid(world):
    other = World()
    stale = other.build(pay(other), view=1)
    above = other.build(parent=stale, view=2)
    first = world.build(view=3)
    second = world.build(view=4)
    world.finalize(second)
    with pytest.raises(InvalidBlock, match="beside the final chain"):
        copy(other, stale, world)
    with pytest.raises((InvalidBlock, MissingParent)):
        copy(other, above, world)
    third = other.build(parent=other.tree.final, view=9)
    with pytest.raises(InvalidBlock, match="beside the final chain"):
        copy(other, third, world)
    assert first.height == 1


def test_unknown_hashes(world):
    tree = world.tree
    assert not tree.has(bytes(32))
    assert tree.get_block_bytes(bytes(32)) is None
    for read in (tree.get, tree.get_block, tree.get_time_ms, tree.save_pending):
        with pytest.raises(UnknownBlock):
            read(bytes(32))
    with pytest.raises(UnknownBlock):
        world.build(parent=replace(tree.final, block_hash=bytes(32)))


def test_the_number_of_pending_blocks_is_bounded(world, monkeypatch):
    monkeypatch.setattr(pending, "MAX_UNSAVED", 8)
    kept = world.build(view=1)
    world.tree.save_pending(kept.block_hash)
    final = world.tree.final
    views = range(2, 11)
    blocks = [world.build(parent=final, view=view) for view in views]
    assert len(world.tree.pending) == 9
    assert world.tree.has(kept.block_hash)
    assert not world.tree.has(blocks[0].block_hash)
    assert world.tree.has(blocks[-1].block_hash)


def test_saved_blocks_are_never_evicted(world, monkeypatch):
    monkeypatch.setattr(pending, "MAX_UNSAVED", 2)
    monkeypatch.setattr(pending, "MAX_SAVED", 3)
    for _ in range(5):
        block = world.build()
        world.tree.save_pending(block.block_hash)
    with pytest.raises(TooManyPending):
        world.build()
    world.finalize(block)
    assert world.tree.final_height == 5


def test_a_line_of_unsaved_blocks_ends(world, monkeypatch):
    monkeypatch.setattr(pending, "MAX_UNSAVED", 2)
    world.build(), world.build()
    with pytest.raises(TooManyPending):
        world.build()


def test_a_parent_is_not_evicted_for_its_child(world, monkeypatch):
    monkeypatch.setattr(pending, "MAX_UNSAVED", 8)
    final = world.tree.final
    blocks = [world.build(parent=final, view=1 + i) for i in range(8)]
    child = world.build(parent=blocks[0], view=9)
    assert world.tree.has(blocks[0].block_hash)
    assert not world.tree.has(blocks[1].block_hash)
    world.finalize(child)


def test_time_is_raised_above_the_parents(world):
    first = world.build()
    world.now_ms = 0
    block = world.tree.build(
        parent_hash=first.block_hash,
        view=2,
        proposer=world.leader(2),
        reveal=world.reveal(2),
        attendance=world.attend(first),
        time_ms=5,
        picker=EmptyPicker(),
    )
    assert block.header.time_ms == first.header.time_ms + 1


class EmptyPicker:
    def get_waiting(self, shard):
        return 0

    def pick(self, shard, read):
        return iter(())


def test_a_leader_leaves_out_what_does_not_fit_here(world):
    good = pay(world)
    bad_nonce = world.sign(BOB, Transfer(DAVE.public_key, 0, 1), nonce=5)
    poor = world.sign(DAVE, Transfer(BOB.public_key, 1, 1), shard=1)
    block = world.build(bad_nonce, good, poor)
    assert [len(chunk.transactions) for chunk in block.chunks] == [1]


def test_blocks_stay_below_their_limits():
    """What travels beside a block takes no room in it; each chunk has a limit too."""
    spec = build_chain_spec(build_genesis(block_work=10**6))
    params = msgspec.structs.replace(spec.params, block_bytes=32 * 1024)
    spec = replace(spec, params=params)
    world = World(spec=spec)
    payments = [pay(world, 1, shard) for shard in (0, 1, 2) for _ in range(120)]
    block = world.build(*payments)
    assert 20 * 1024 < len(block.block_bytes) <= 32 * 1024
    lengths = {c.header.shard: c.header.bytes for c in block.chunks}
    assert lengths[1] + lengths[2] > lengths[0]
    assert lengths[1] == lengths[2]
    other = World(spec=spec)
    copy(world, block, other)


def test_work_is_bounded_per_block():
    spec = build_chain_spec(build_genesis(block_work=1500))
    world = World(spec=spec)
    block = world.build(*[pay(world, 1, shard) for shard in (0, 1) for _ in range(20)])
    work = {c.header.shard: c.header.work for c in block.chunks}
    assert 3 * work[0] + 2 * work[1] <= 3 * 1500
    counts = {c.header.shard: c.header.tx_count for c in block.chunks}
    # The root shard keeps a third for itself; of the rest a validator executes two.
    assert counts == {0: 6, 1: 6}


def test_reads_at_any_held_block(world):
    block = world.build(pay(world, 7))
    key = b"a" + DAVE.public_key
    assert world.tree.final.view.get(0, key) is None
    assert block.view.get(0, key) is not None
    assert world.build().view.get(0, key) == block.view.get(0, key)
    assert SPEC.first_layout.shard_ids == (0, 1, 2)

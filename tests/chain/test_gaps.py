"""Which blocks of which shards are missing in a history."""

from chain_world import ALICE, BOB, COIN, ListPicker, World

from chain.queries.queries import Queries
from chain.records.transfer import Transfer
from chain.storage.gaps import MAX_GAPS, Gap, read_gaps, update_gaps
from chain.storage.index import compute_seen_changes
from chain.tree.following import Follow
from chain.tree.opening import open_tree
from p2pchain.sim.chains.committee import hand_bodies
from primitives import bls
from primitives.kv import MemoryStore
from shards.slots import Slot


def test_a_gap_opens_goes_on_and_closes():
    gaps = update_gaps((), 5, {1, 2}, {})
    assert gaps == (Gap(1, 5, None), Gap(2, 5, None))
    assert update_gaps(gaps, 6, {1, 2}, {}) == gaps
    # One is taken on, with what it did since block 4; the other since block 7.
    gaps = update_gaps(gaps, 9, set(), {1: 4, 2: 7})
    assert gaps == (Gap(2, 5, 7),)
    # Gone from the layout, or followed without being taken on.
    gaps = update_gaps(update_gaps(gaps, 10, {2}, {}), 12, set(), {})
    assert gaps == (Gap(2, 5, 7), Gap(2, 10, 11))


def test_they_are_bounded():
    gaps = ()
    for height in range(1, 4 * MAX_GAPS, 2):
        gaps = update_gaps(gaps, height, {1}, {})
        gaps = update_gaps(gaps, height + 1, set(), {})
    assert len(gaps) == MAX_GAPS
    assert gaps[-1].last == 4 * MAX_GAPS - 1


def test_a_node_that_stops_following_knows_since_when():
    world = World()
    world.advance(world.sign(ALICE, Transfer(BOB.public_key, 2, COIN), 2), blocks=2)
    store = MemoryStore()
    store.write(dict(world.store._values))
    tree = open_tree(world.spec, store, bls, follow=Follow(frozenset({1})))
    queries = Queries(tree)
    assert read_gaps(tree.store) == ()
    assert queries.list_gaps() == (Gap(2, 3, None),)
    for _ in range(2):
        held = world.build(world.sign(ALICE, Transfer(BOB.public_key, 2, COIN), 2))
        hand_bodies(held, tree)
        tree.add(held.block_bytes, held.header.time_ms)
        world.finalize(held)
        tree.finalize(world.certify(held))
        assert queries.list_gaps() == read_gaps(tree.store) == (Gap(2, 3, None),)
    assert Queries(world.tree).list_gaps() == ()


def test_an_endorser_has_bodies_of_chunks_whose_outcomes_it_does_not_keep():
    world = World()
    store = MemoryStore()
    store.write(dict(world.store._values))
    tree = open_tree(world.spec, store, bls, follow=Follow(frozenset({1})))
    payments = [
        world.sign(ALICE, Transfer(BOB.public_key, shard, COIN), shard)
        for shard in (1, 2)
    ]
    parent = world.tree.final
    slot = Slot(0, 2, 1)
    producer = parent.child_epoch.roles.get_producers(slot)[0]
    produced = world.tree.chunks.produce_chunk(
        slot, parent.block_hash, producer, ListPicker(payments)
    )
    tree.chunks.judge_chunk(produced, parent.block_hash)
    held = world.build(*payments)
    hand_bodies(held, tree)
    tree.add(held.block_bytes, held.header.time_ms)
    tree.finalize(world.certify(held))
    queries = Queries(tree)
    assert queries.get_chunk(2, 1).chunk.transactions
    found = queries.list_block_transactions(1).items
    assert [each.shard for each in found] == [1]
    # Executed to see what it did, it can be looked up.
    executed = tree.open_final_court().execute(produced)
    changes = compute_seen_changes(1, produced.header, executed.result)
    tree.store.kv.write(changes, sync=False)
    found = queries.list_block_transactions(1).items
    assert [each.shard for each in found] == [1, 2]
    assert found[1].outcome.ok
    assert queries.get_transaction(found[1].tx_id) == found[1]

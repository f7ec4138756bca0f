"""From submission to queries, once through everything."""

from chain_world import ALICE, BOB, COIN, DAVE, SPEC, World

from chain.checks.conservation import compute_conservation
from chain.mempool import Mempool
from chain.queries.queries import Queries
from chain.records.transfer import Transfer
from chain.storage.leveldb import LevelStore
from chain.tree.opening import open_tree
from primitives import bls
from primitives.codec import encode


def test_transfers_travel_from_mempool_to_queries(tmp_path):
    world = World(store=LevelStore(tmp_path))
    pool = Mempool(SPEC, world.tree.verified)
    payments = [
        world.sign(ALICE, Transfer(BOB.public_key, 0, 5 * COIN)),
        world.sign(ALICE, Transfer(DAVE.public_key, 2, 7 * COIN)),
    ]
    ids = [pool.add(encode(signed), world.tree.final) for signed in payments]
    block = world.finalize(world.build(picker=pool))
    assert sorted(pool.revalidate(world.tree.final)) == sorted(ids)
    queries = Queries(world.tree)
    found = queries.get_transaction(ids[1])
    assert found.outcome.ok
    assert (found.height, found.block_hash) == (1, block.block_hash)
    assert queries.get_account(0, BOB.public_key).balance == 105 * COIN
    assert queries.get_account(2, DAVE.public_key).balance == 0
    assert compute_conservation(world.tree).away == 7 * COIN
    world.advance()
    assert queries.get_account(2, DAVE.public_key).balance == 7 * COIN
    assert compute_conservation(world.tree).is_conserved
    history = queries.list_address_transactions(ALICE.public_key, limit=1)
    assert history.items[0].tx_id == ids[1]
    rest = queries.list_address_transactions(ALICE.public_key, after=history.next)
    assert [item.tx_id for item in rest.items] == ids[:1]
    world.store.close()
    again = open_tree(SPEC, LevelStore(tmp_path), bls)
    assert again.final_hash == world.tree.final_hash

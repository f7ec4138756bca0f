"""A host makes a chunk, and a committee that holds nothing agrees."""

from chain_world import ALICE, BOB, CAROL, COIN, ListPicker, World

from chain.execution.chunk_run import ChunkLimits
from chain.execution.context import build_context
from chain.execution.verified import VerifiedCache
from chain.execution.witness import WitnessFull, WitnessMeter, execute_witnessed
from chain.records.transaction import compute_tx_id, decode_transaction
from chain.records.transfer import Transfer
from chain.tree.producing import MAX_PASSED, ChunkPlace, produce_chunk
from primitives.codec import encode
from shards.chunk import compute_chunk_hash

LIMITS = ChunkLimits(2**20, 400_000, 4096, 1024)


def transfer(world, sender=ALICE, recipient=BOB, shard=1, to=1, amount=COIN, **changes):
    payload = Transfer(recipient.public_key, to, amount)
    return world.sign(sender, payload, shard, **changes)


def produce(world, *transactions, inbox=(), limits=LIMITS, shard=1, view=9):
    anchor = world.tip
    place = ChunkPlace(shard, anchor.child_epoch.epoch, view, 2)
    return produce_chunk(
        world.spec,
        anchor,
        place,
        inbox=inbox,
        candidates=ListPicker(transactions).pick(shard, lambda key: None),
        limits=limits,
        verified=VerifiedCache(),
    )


def endorse(world, chunk):
    return execute_witnessed(
        build_context(world.spec, world.tip, chunk.header.shard),
        chunk.header,
        chunk.body,
        chunk.witness,
        LIMITS,
        VerifiedCache(),
    )


def test_a_chunk_stands_on_the_tip_of_its_anchor():
    world = World()
    world.advance(transfer(world), blocks=2)
    tip = world.tip
    chunk = produce(world, transfer(world), transfer(world, BOB, CAROL))
    header = chunk.header
    assert (header.shard, header.epoch, header.created_view, header.producer) == (
        *(1, tip.child_epoch.epoch),
        *(9, 2),
    )
    assert header.seq == tip.heads[1].seq + 1 == 2
    assert header.prev_chunk == compute_chunk_hash(tip.heads[1])
    assert header.anchor == tip.block_hash
    assert header.pre_root == tip.heads[1].post_root == tip.view.get_root(1)
    assert len(chunk.body.transactions) == 2


def test_its_endorsers_agree():
    world = World()
    world.advance(transfer(world))
    chunk = produce(world, transfer(world), transfer(world, BOB, CAROL, to=2))
    assert endorse(world, chunk) == chunk.executed
    assert [packet.dst for packet in chunk.executed.result.emitted] == [2]


def test_packets_come_first():
    world = World()
    world.finalize(world.build(transfer(world, shard=2, to=1)))
    branch = world.tree.get(world.tree.final_hash)
    stored = world.tree.store.get_packet(2, 1, 0)
    chunk = produce(world, transfer(world), inbox=[stored.proof])
    assert chunk.body.packets == (stored.proof,)
    assert len(chunk.body.transactions) == 1
    assert chunk.header.in_cursor[0].shard == 2
    assert branch.view.get_root(1) == chunk.header.pre_root
    assert endorse(world, chunk) == chunk.executed


def test_nothing_to_do_is_no_chunk():
    world = World()
    assert produce(world) is None
    assert produce(world, transfer(world, nonce=5)) is None
    assert produce(world, transfer(world, sender=BOB), shard=2) is None


def test_a_chunk_is_no_fuller_than_it_may_be():
    world = World()
    lot = [transfer(world) for _ in range(5)]
    limits = ChunkLimits(2**20, 450, 4096, 1024)
    chunk = produce(world, *lot, limits=limits)
    assert chunk.header.work == 450
    assert chunk.body.transactions == tuple(encode(each) for each in lot[:3])


def test_a_transaction_too_large_for_the_witness_is_passed_by(monkeypatch):
    """Those behind it have their turn, but not without end."""
    world = World()
    large = transfer(world, CAROL)
    tried = []

    def add(self, keys):
        tried.append(keys := list(keys))
        if b"a" + CAROL.public_key in keys:
            raise WitnessFull("witness bytes")

    monkeypatch.setattr(WitnessMeter, "add", add)
    small = [transfer(world) for _ in range(2)]
    chunk = produce(world, small[0], large, small[1])
    ids = [compute_tx_id(data) for data in chunk.body.transactions]
    assert ids == [compute_tx_id(encode(each)) for each in small]
    assert decode_transaction(chunk.body.transactions[0]) == small[0]
    assert endorse(world, chunk) == chunk.executed
    tried.clear()
    assert produce(world, *[large] * (2 * MAX_PASSED)) is None
    assert sum(b"a" + CAROL.public_key in keys for keys in tried) == MAX_PASSED


def test_a_shard_beyond_any_witness_has_no_chunk(monkeypatch):
    world = World()
    monkeypatch.setattr(WitnessMeter.__init__, "__defaults__", (10,))
    assert produce(world, transfer(world)) is None

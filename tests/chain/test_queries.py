"""Queries: lookups, histories, pages, proofs."""

import msgspec
import pytest
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, MODEL, SPEC, World
from channel_helpers import PRICE, build_claim, build_opening, build_work
from proof_checks import verify_state_proof
from test_register import build_offer

from chain.queries.paging import InvalidCursor
from chain.queries.queries import Queries
from chain.records.channel import ChannelStatus, Close, OpenChannels, Settle
from chain.records.keys import build_account_key
from chain.records.registration import RegistrationStatus
from chain.records.transaction import compute_tx_id
from chain.records.transfer import Transfer
from chain.state.proofs import StateProof
from primitives import bls
from primitives.codec import decode, encode

LEVELS = SPEC.params.bucket_levels


@pytest.fixture(scope="module")
def world():
    """Ten blocks in which something of every kind happens."""
    world = World()
    world.advance(
        world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN)),
        world.sign(BOB, build_offer(), 1),
        world.sign(CAROL, build_offer(2, 6), 1),
        world.sign(ALICE, OpenChannels((build_opening(BOB),)), 1),
    )
    world.advance(blocks=2)
    queries = Queries(world.tree)
    name = queries.market.find_channel(ALICE.public_key, BOB.public_key).channel_id
    claims = [build_claim(name, used) for used in (10, 20, 30)]
    for claim in claims:
        world.advance(world.sign(BOB, Settle(name, claim, build_work()), 1))
    world.advance(world.sign(BOB, Close(name, None, None), 1))
    world.advance(world.sign(BOB, Close(name, None, None), 1))
    world.advance(world.sign(ALICE, OpenChannels((build_opening(BOB),)), 1))
    world.advance()
    return world


@pytest.fixture(scope="module")
def queries(world):
    return Queries(world.tree)


def test_blocks_by_height_hash_and_tip(world, queries):
    tip = queries.get_block()
    assert tip.height == queries.height == 10
    assert tip.block_hash == world.tree.final_hash
    assert queries.get_block(tip.block_hash) == queries.get_block(10)
    assert queries.get_block(3).certificate.view == 3
    assert queries.get_block(0).certificate is not None
    assert queries.get_block(11) is None
    assert queries.get_block(bytes(32)) is None
    assert queries.get_block(1).transactions == 4
    assert queries.get_block(1).length == len(encode(queries.get_block(1).block))


def test_a_block_that_is_not_there_yet_is_found_later():
    world = World()
    queries = Queries(world.tree)
    assert queries.get_block(1) is None
    block = world.advance()
    assert queries.get_block(1).block_hash == block.block_hash
    assert queries.get_block(-1) is None


def collect(read, limit):
    """Return all items of a paged list."""
    items, after = [], None
    while True:
        page = read(after=after, limit=limit)
        assert len(page.items) <= limit
        items += page.items
        after = page.next
        if after is None:
            return items


@pytest.mark.parametrize("limit", [1, 3, 11, 1000])
def test_pages_neither_skip_nor_repeat(queries, limit):
    heights = [found.height for found in collect(queries.list_blocks, limit)]
    assert heights == list(range(10, -1, -1))


def test_pages_of_transactions(queries):
    history = collect(
        lambda **page: queries.list_address_transactions(BOB.public_key, **page), 2
    )
    assert [found.height for found in history] == [9, 8, 7, 6, 5, 4, 1, 1]
    block = collect(lambda **page: queries.list_block_transactions(1, **page), 3)
    assert [(found.shard, found.index) for found in block] == [
        (0, 0),
        (1, 0),
        (1, 1),
        (1, 2),
    ]
    assert queries.list_block_transactions(99).items == ()


def test_transactions_and_their_outcomes(queries):
    failed = queries.list_address_transactions(BOB.public_key).items[1]
    assert failed.height == 8
    assert not failed.outcome.ok
    assert failed.outcome.code == "unknown_channel"
    found = queries.get_transaction(failed.tx_id)
    assert found == failed
    assert compute_tx_id(encode(found.signed)) == found.tx_id
    assert queries.get_block(found.block_hash).height == 8
    assert queries.get_transaction(bytes(32)) is None


def test_the_recipient_sees_a_payment(queries):
    (found,) = queries.list_address_transactions(DAVE.public_key).items
    assert found.signed.transaction.sender == ALICE.public_key
    (event,) = found.outcome.events
    assert (event.kind, event.amount) == ("transfer", COIN)


def test_accounts(queries):
    assert queries.get_account(2, DAVE.public_key).balance == COIN
    accounts = queries.list_accounts(DAVE.public_key)
    assert [(a.shard, a.balance) for a in accounts] == [(0, 0), (1, 0), (2, COIN)]
    assert queries.get_account(1, BOB.public_key).nonce == 6


def test_registrations_and_mirrors(queries):
    registrations = queries.market.list_registrations()
    assert {r.account for r in registrations} == {BOB.public_key, CAROL.public_key}
    assert all(r.status == RegistrationStatus.ACTIVE for r in registrations)
    assert queries.market.list_registrations(bytes(32)) == ()
    assert queries.market.list_registrations(status=RegistrationStatus.PENDING) == ()
    assert queries.market.list_registrations(MODEL.model_id) == registrations
    assert queries.market.get_registration(CAROL.public_key).end == 6
    assert queries.market.get_registration(CAROL.public_key, 2) is None
    assert queries.market.get_registration(ALICE.public_key) is None
    (mirror,) = queries.market.list_mirrors(2)
    assert mirror.account == CAROL.public_key
    assert queries.market.list_mirrors(1) == ()


def test_channels_open_and_ended(queries):
    channels = collect(
        lambda **page: queries.market.list_channels(ALICE.public_key, **page), 1
    )
    assert [c.status for c in channels] == [ChannelStatus.OPEN, ChannelStatus.CLOSED]
    assert channels[1].settled == 30 * PRICE
    assert queries.market.get_channel(channels[1].channel_id) == channels[1]
    found = queries.market.find_channel(ALICE.public_key, BOB.public_key)
    assert found == channels[0]
    assert queries.market.find_channel(ALICE.public_key, BOB.public_key, 1) == found
    assert queries.market.find_channel(ALICE.public_key, BOB.public_key, 2) is None
    assert queries.market.find_channel(BOB.public_key, ALICE.public_key) is None
    assert queries.market.get_channel(bytes(32)) is None
    page = queries.market.list_channels(BOB.public_key, is_open=True)
    assert page.items == (found,)
    page = queries.market.list_channels(BOB.public_key, is_open=False)
    assert page.items == (channels[1],)


def test_work_records(queries):
    work = collect(queries.market.list_work, 2)
    for found in work:
        settlement = queries.get_transaction(found.tx_id)
        assert settlement.height == found.height
        assert settlement.signed.transaction.payload.work == found.entry.work
    assert [found.height for found in work] == [6, 5, 4]
    assert [found.entry.number for found in work] == [2, 1, 0]
    assert {found.shard for found in work} == {1}
    assert sum(found.entry.paid for found in work) == 30 * PRICE
    own = collect(
        lambda **page: queries.market.list_work(payee=BOB.public_key, **page), 1
    )
    assert own == work
    assert queries.market.list_work(payee=ALICE.public_key).items == ()


def test_packets(queries):
    (credit,) = queries.list_packets(0, 2).items
    assert credit.consumed_height == 2
    assert credit.proof.packet.amount == COIN
    assert queries.get_packet(0, 2, 0) == credit
    assert queries.get_packet(0, 2, 1) is None
    assert len(queries.list_packets(1, 2).items) == 1
    assert len(queries.list_packets(2, 1).items) == 1
    assert queries.list_packets(2, 0).items == ()


def test_shards_and_chunks(queries):
    shards = queries.list_shards()
    assert [shard.shard_id for shard in shards] == [0, 1, 2]
    assert shards[0].spec is None
    assert (shards[1].spec.start, shards[1].spec.end) == (0, 4)
    assert shards[1].head_height == 9
    assert all(shard.backlog == () for shard in shards)
    assert shards[1].totals.burned > 0
    chunk = queries.get_chunk(1, 1)
    assert chunk.height == 1
    assert len(chunk.outcomes) == 3
    assert queries.get_chunk(1, 99) is None
    assert queries.get_chunk(1, 0) is None
    assert queries.get_shard(2) == shards[2]
    assert queries.get_shard(3) is None


def test_backlog_is_seen_while_packets_wait():
    world = World()
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN)))
    queries = Queries(world.tree)
    assert queries.get_shard(2).backlog == ((0, 1),)
    assert queries.get_packet(0, 2, 0).consumed_height is None
    assert queries.compute_conservation().away == COIN
    assert queries.compute_conservation().is_conserved


def test_models(queries):
    assert queries.market.list_models() == (MODEL,)


def test_conservation(queries):
    books = queries.compute_conservation()
    assert books.is_conserved
    assert books.stake == 4000 * COIN
    assert books.collateral == 2 * COIN
    assert books.channels == COIN
    assert books.burned > 0
    assert books.created == books.genesis == 4900 * COIN


@pytest.mark.parametrize("cursor", ["x", "zz", "", "00"])
def test_a_cursor_of_nowhere(queries, cursor):
    with pytest.raises(InvalidCursor):
        queries.list_blocks(after=cursor)


# ---------------------------------------------------------------------- proofs


def check(proof: StateProof) -> bool:
    return verify_state_proof(proof, SPEC.chain_id, LEVELS, SPEC.first_validators, bls)


@pytest.mark.parametrize("person", [ALICE, DAVE])
def test_a_proof_of_a_value(queries, person):
    key = build_account_key(person.public_key)
    proof = queries.states.build_state_proof(2, key)
    assert proof.value is not None
    assert check(proof)
    assert check(decode(StateProof, encode(proof)))


def test_a_proof_of_absence(queries):
    proof = queries.states.build_state_proof(1, build_account_key(bytes(32)))
    assert proof.value is None
    assert check(proof)


def test_proofs_that_do_not_hold(queries):
    key = build_account_key(ALICE.public_key)
    good = queries.states.build_state_proof(1, key)
    earlier = queries.get_block(5)
    for changes in [
        {"value": None},
        {"value": good.value + b"\0"},
        {"key": build_account_key(BOB.public_key)},
        {"shard": 2},
        {"index": 2},
        {"count": 4},
        {"levels": LEVELS + 1},
        {"shard_root": bytes(32)},
        {"path": ()},
        {"certificate": None},
        {"certificate": earlier.certificate},
        {"header": earlier.block.header},
        {"header": msgspec.structs.replace(good.header, chain_id=bytes(32))},
        {"bucket": queries.states.build_state_proof(2, key).bucket},
    ]:
        assert not check(msgspec.structs.replace(good, **changes)), changes


def test_a_proof_is_for_one_chain(queries):
    proof = queries.states.build_state_proof(1, build_account_key(ALICE.public_key))
    assert not verify_state_proof(proof, bytes(32), LEVELS, SPEC.first_validators, bls)

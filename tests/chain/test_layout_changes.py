"""Layouts that change under a real chain: splits, models that come and go."""

import pytest
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, MODEL, STAKERS, copy_bodies
from channel_helpers import build_claim, build_opening, build_work
from reshard_world import EPOCH, GRACE, OTHER_MODEL, ReshardWorld
from test_register import build_offer

from chain.ledger.phase import Phase
from chain.records.block import decode_block
from chain.records.channel import (
    Close,
    OpenChannels,
    RequestClose,
    Settle,
    TopUp,
    compute_channel_id,
)
from chain.records.proposal import (
    MAX_PROPOSALS,
    PROPOSAL_EPOCHS,
    AddModel,
    RetireModel,
    SplitShard,
)
from chain.records.registration import RegistrationStatus
from chain.records.resharding import Reshard, ReshardVote
from chain.records.transfer import Transfer
from chain.storage.store import ChainStore
from primitives.kv import MemoryStore

ACTIVE, PENDING = RegistrationStatus.ACTIVE, RegistrationStatus.PENDING
SPLIT = SplitShard(1, 2)


@pytest.fixture
def world():
    return ReshardWorld()


# ------------------------------------------------------------------- decisions


def test_a_change_is_announced_for_an_epoch(world):
    world.go_to_epoch(1)
    world.propose(SPLIT)
    assert world.epoch == 1
    layouts = [world.layout]
    world.go_to_epoch(2)
    assert world.layout == layouts[0]
    assert world.next_layout.shard_ids == (0, 1, 2, 3)
    header = world.step().header
    assert header.layout_root == layouts[0].compute_root()
    assert header.next_layout_root == world.next_layout.compute_root()
    world.go_to_epoch(3)
    assert world.ids == (0, 1, 2, 3)
    boundary = world.tree.final.header
    assert boundary.epoch == 2
    assert boundary.next_layout_root == world.layout.compute_root()
    assert world.kinds().count("reshard_adopted") == 1
    assert world.docket.open == ()


@pytest.mark.parametrize("voters", [(0,), (0, 1)])
def test_two_thirds_are_no_quorum(world, voters):
    world.propose(SPLIT, voters)
    world.go_to_epoch(4)
    assert world.ids == (0, 1, 2)
    assert world.docket.open == (0,)
    world.do(world.sign(STAKERS[3], ReshardVote(0)))
    world.go_to_epoch(7)
    assert (world.ids == (0, 1, 2, 3)) == (len(voters) == 2)


def test_a_proposal_expires(world):
    world.propose(SPLIT, (0, 1))
    world.go_to_epoch(PROPOSAL_EPOCHS)
    assert world.docket.open == (0,)
    world.go_to_epoch(PROPOSAL_EPOCHS + 1)
    assert world.docket.open == ()
    assert world.kinds().count("reshard_expired") == 1
    world.refuse(STAKERS[2], ReshardVote(0), "unknown_proposal")


def test_one_change_at_a_time(world):
    world.go_to_epoch(1)
    changes = [SPLIT, SplitShard(2, 5), AddModel(OTHER_MODEL, 2)]
    world.do(*(world.sign(STAKERS[i], Reshard(c)) for i, c in enumerate(changes)))
    world.do(
        *(
            world.sign(STAKERS[i], ReshardVote(number))
            for number in range(3)
            for i in range(4)
            if i != number
        )
    )
    counts = []
    for epoch in range(2, 7):
        world.go_to_epoch(epoch)
        counts.append(len(world.layout.shards))
    assert counts == [2, 3, 4, 6, 6]
    assert world.ids == (0, 1, 2, 3, 4, 5, 6)


def test_of_two_that_exclude_each_other_the_first_is_adopted(world):
    world.go_to_epoch(1)
    for number, change in enumerate((SPLIT, SplitShard(1, 2))):
        world.do(world.sign(STAKERS[number], Reshard(change)))
    votes = [(0, 1), (0, 2), (1, 0), (1, 2)]
    world.do(*(world.sign(STAKERS[i], ReshardVote(n)) for n, i in votes))
    world.go_to_epoch(5)
    assert world.ids == (0, 1, 2, 3)
    assert world.kinds().count("reshard_void") == 1
    assert world.docket.open == ()


@pytest.mark.parametrize(
    "change",
    [
        SplitShard(0, 1),
        SplitShard(9, 1),
        SplitShard(1, 0),
        SplitShard(1, 4),
        AddModel(MODEL, 1),
        AddModel(OTHER_MODEL, 0),
        AddModel(OTHER_MODEL, 6),
        RetireModel(OTHER_MODEL.model_id),
    ],
)
def test_changes_that_do_not_fit(world, change):
    world.refuse(STAKERS[0], Reshard(change), "bad_reshard")
    assert world.docket.open == ()


def test_models_that_lie_about_themselves(world):
    from msgspec.structs import replace

    other = replace(OTHER_MODEL, model_id=bytes(32))
    world.refuse(STAKERS[0], Reshard(AddModel(other, 1)), "bad_reshard")
    other = replace(OTHER_MODEL, name=MODEL.name)
    world.refuse(STAKERS[0], Reshard(AddModel(other, 1)), "bad_reshard")


def test_who_has_a_say(world):
    world.refuse(ALICE, Reshard(SPLIT), "unknown_stake")
    world.refuse(ALICE, Reshard(SPLIT), "not_root_shard", shard=1)
    world.refuse(ALICE, ReshardVote(0), "unknown_stake")
    world.refuse(STAKERS[0], ReshardVote(0), "unknown_proposal")
    world.do(world.sign(STAKERS[0], Reshard(SPLIT)))
    world.refuse(STAKERS[0], ReshardVote(0), "already_voted")
    world.refuse(STAKERS[0], Reshard(SplitShard(2, 6)), "proposal_open")
    assert MAX_PROPOSALS >= 4


# ---------------------------------------------------------------------- splits


def test_balances_channels_and_nonces_stay(world):
    world.do(
        world.sign(ALICE, OpenChannels((build_opening(BOB),)), 1),
        world.sign(CAROL, Transfer(DAVE.public_key, 2, 5 * COIN), 1),
    )
    before = {p: world.balance(p, 1) for p in (ALICE, BOB, CAROL)}
    world.change_layout(SPLIT)
    world.settle(3)
    assert {p: world.balance(p, 1) for p in (ALICE, BOB, CAROL)} == before
    assert all(world.balance(person, 3) == 0 for person in before)
    (channel,) = world.queries.market.list_channels(BOB.public_key).items
    claim = build_claim(channel.channel_id, 10, chain_id=world.spec.chain_id)
    world.do(world.sign(BOB, Close(channel.channel_id, claim, build_work()), 1))
    world.do(world.sign(ALICE, Transfer(BOB.public_key, 3, COIN), 1))
    world.step()
    assert world.balance(BOB, 3) == COIN
    world.do(world.sign(BOB, Transfer(ALICE.public_key, 2, COIN // 2), 3))


def test_providers_move_with_their_layers(world):
    offers = {ALICE: (0, 2), BOB: (2, 4), CAROL: (1, 3), DAVE: (2, 6)}
    world.do(*(world.sign(p, build_offer(*o), 1) for p, o in offers.items()))
    world.settle(3)
    world.change_layout(SPLIT)
    world.settle(4)
    ranges = {}
    for person, offer in offers.items():
        (found,) = [r for s in world.ids if (r := world.registration(person, s))]
        assert (found.status, found.awaiting) == (ACTIVE, ())
        assert (found.start, found.end, found.collateral) == (*offer, COIN)
        ranges[person] = (found.home, found.mirrors, found.version)
    assert ranges == {
        ALICE: (1, (), 1),
        BOB: (3, (), 2),
        CAROL: (1, (3,), 2),
        DAVE: (3, (2,), 2),
    }
    mirrors = {
        shard: {(m.account, m.home) for m in world.queries.market.list_mirrors(shard)}
        for shard in world.ids
    }
    assert mirrors == {
        0: set(),
        1: set(),
        2: {(DAVE.public_key, 3)},
        3: {(CAROL.public_key, 1)},
    }


def test_an_update_after_the_split_needs_the_new_home(world):
    world.do(world.sign(BOB, build_offer(2, 4), 1))
    world.change_layout(SPLIT)
    world.settle(3)
    world.do(world.sign(ALICE, Transfer(BOB.public_key, 3, 5 * COIN), 1))
    world.step()
    world.refuse(BOB, build_offer(2, 4), "wrong_home", shard=1)
    world.do(world.sign(BOB, build_offer(2, 4, collateral=2 * COIN), 3))
    found = world.registration(BOB, 3)
    assert (found.version, found.collateral) == (3, 2 * COIN)


def test_a_split_in_the_middle_of_a_split(world):
    world.do(*(world.sign(p, build_offer(0, 4), 1) for p in (ALICE, BOB, CAROL)))
    world.change_layout(SPLIT)
    world.change_layout(SplitShard(1, 1))
    world.change_layout(SplitShard(3, 3))
    world.settle(6)
    assert world.ids == (0, 1, 2, 3, 4, 5)
    for person in (ALICE, BOB, CAROL):
        found = world.registration(person, 1)
        assert (found.status, found.mirrors) == (ACTIVE, (3, 4, 5))


def test_many_registrations_take_several_steps(world, monkeypatch):
    monkeypatch.setattr("chain.contracts.moving.STEP_REGISTRATIONS", 1)
    people = (ALICE, BOB, CAROL, DAVE)
    world.do(*(world.sign(p, build_offer(2, 4), 1) for p in people))
    world.change_layout(SPLIT)
    homes = []
    for _ in range(8):
        homes.append(sum(world.registration(p, 3) is not None for p in people))
        world.step()
    assert homes[-1] == 4
    assert homes == sorted(homes)
    assert len(set(homes)) == 5


# -------------------------------------------------------------------- a model


def test_a_model_comes_and_serves(world):
    world.change_layout(AddModel(OTHER_MODEL, 2))
    assert world.ids == (0, 1, 2, 3, 4)
    names = {m.name for m in world.queries.market.list_models()}
    assert names == {"toy", "second"}
    world.do(world.sign(ALICE, Transfer(ALICE.public_key, 3, 5 * COIN), 1))
    world.step()
    offer = build_offer(2, 5, model_id=OTHER_MODEL.model_id)
    world.do(world.sign(ALICE, offer, 3))
    world.settle(3)
    found = world.registration(ALICE, 3)
    assert (found.status, found.mirrors) == (ACTIVE, (4,))
    assert world.queries.market.get_model(OTHER_MODEL.model_id) == OTHER_MODEL


def open_channel(world, payer, payee, shard) -> bytes:
    nonce = world.nonces.get((payer.public_key, shard), 0)
    opening = build_opening(payee, deposit=3 * COIN)
    world.do(world.sign(payer, OpenChannels((opening,)), shard))
    return compute_channel_id(
        world.spec.chain_id,
        shard,
        payer.public_key,
        payee.public_key,
        opening.signer,
        nonce,
        0,
    )


def build_busy_model(world):
    """Give a second model balances, a channel, and registrations."""
    world.change_layout(AddModel(OTHER_MODEL, 2))
    for person in (ALICE, BOB):
        for shard in (3, 4):
            payment = Transfer(person.public_key, shard, 10 * COIN)
            world.do(world.sign(person, payment, 1))
    world.settle(2)
    model = {"model_id": OTHER_MODEL.model_id}
    world.do(
        world.sign(ALICE, build_offer(0, 5, **model), 3),
        world.sign(BOB, build_offer(3, 5, **model), 4),
    )
    world.settle(3)
    return open_channel(world, ALICE, BOB, 3)


def test_a_model_goes_and_nothing_is_lost(world):
    supply = sum(
        sum(a.balance for a in world.queries.list_accounts(p.public_key))
        for p in (ALICE, BOB)
    )
    channel_id = build_busy_model(world)
    world.change_layout(RetireModel(OTHER_MODEL.model_id))
    drained = world.epoch + -(-GRACE // EPOCH)
    retiring = [s.shard_id for s in world.layout.shards if s.is_retiring]
    assert retiring == [3, 4]
    # Draining: what there is ends or moves on, and nothing begins.
    model = {"model_id": OTHER_MODEL.model_id}
    world.refuse(BOB, build_offer(0, 2, **model), "shard_retiring", shard=3)
    opening = OpenChannels((build_opening(ALICE),))
    world.refuse(BOB, opening, "shard_retiring", shard=3)
    world.refuse(ALICE, TopUp(channel_id, 5), "shard_retiring", shard=3)
    payment = Transfer(ALICE.public_key, 3, 5)
    world.do(world.sign(ALICE, payment, 1))
    claim = build_claim(channel_id, 10, chain_id=world.spec.chain_id)
    world.do(world.sign(BOB, Settle(channel_id, claim, build_work()), 3))
    world.go_to_epoch(drained)
    world.refuse(ALICE, payment, "shard_closed", shard=1)
    late = world.sign(ALICE, Transfer(ALICE.public_key, 0, 5), 3)
    assert not world.step(late).chunks[0].transactions
    world.settle(8 * EPOCH)
    assert world.ids == (0, 1, 2)
    assert [m.name for m in world.queries.market.list_models()] == ["toy"]
    for person in (ALICE, BOB):
        assert world.registration(person, None) is None
    fees = world.queries.compute_conservation().burned
    left = sum(
        sum(a.balance for a in world.queries.list_accounts(p.public_key))
        for p in (ALICE, BOB)
    )
    assert supply - fees <= left < supply
    assert world.balance(BOB) > 100 * COIN
    (channel,) = world.queries.market.list_channels(ALICE.public_key).items
    assert channel.settled == 10 * 1000
    assert world.queries.market.find_channel(ALICE.public_key, BOB.public_key) is None


def test_packets_that_are_under_way_arrive(world):
    build_busy_model(world)
    world.propose(RetireModel(OTHER_MODEL.model_id))
    world.go_to_epoch(world.epoch + 1)
    while world.tree.final_height % EPOCH != EPOCH - 2:
        world.step()
    # In the last block before the shard drains, in the first after, and in the last
    # before it is emptied.
    before = world.balance(CAROL)
    world.step(world.sign(ALICE, Transfer(CAROL.public_key, 4, COIN), 1))
    world.step(world.sign(BOB, Transfer(CAROL.public_key, 4, COIN), 2))
    assert any(spec.is_retiring for spec in world.layout.shards)
    world.do(world.sign(ALICE, Transfer(CAROL.public_key, 1, COIN), 4))
    held_back = world.balance(CAROL, 1)
    while world.queries.layouts.get_phase(4) == Phase.DRAINING:
        payment = Transfer(CAROL.public_key, 4, COIN)
        before += COIN
        world.do(world.sign(ALICE, payment, 1))
    world.settle(12 * EPOCH)
    assert world.ids == (0, 1, 2)
    assert world.balance(CAROL) == before + 2 * COIN
    assert world.balance(CAROL, 1) == held_back + COIN


def test_a_sweep_in_small_steps(world, monkeypatch):
    for name, value in (("KEYS", 2), ("BUCKETS", 40), ("BYTES", 200)):
        monkeypatch.setattr(f"chain.contracts.sweeping.STEP_{name}", value)
    build_busy_model(world)
    world.change_layout(RetireModel(OTHER_MODEL.model_id))
    world.settle(16 * EPOCH)
    assert world.ids == (0, 1, 2)


def test_a_sweep_waits_for_the_root_shard(monkeypatch):
    from reshard_world import build_spec

    world = ReshardWorld(spec=build_spec(backlog_limit=1))
    build_busy_model(world)
    world.change_layout(RetireModel(OTHER_MODEL.model_id))
    world.settle(16 * EPOCH)
    assert world.ids == (0, 1, 2)


def test_ids_of_shards_that_went_do_not_come_back(world):
    world.change_layout(AddModel(OTHER_MODEL, 2))
    world.change_layout(RetireModel(OTHER_MODEL.model_id))
    world.settle(8 * EPOCH)
    assert world.ids == (0, 1, 2)
    world.change_layout(AddModel(OTHER_MODEL, 1))
    assert world.ids == (0, 1, 2, 5)


def test_the_only_model_may_go(world):
    world.change_layout(RetireModel(MODEL.model_id))
    world.settle(10 * EPOCH)
    assert world.ids == (0,)
    assert all(world.balance(p) == 300 * COIN for p in (ALICE, BOB, CAROL, DAVE))
    world.change_layout(AddModel(MODEL, 3))
    assert world.ids == (0, 3, 4, 5)


def test_a_closing_channel_is_refunded_by_the_sweep(world):
    channel_id = open_channel(world, ALICE, BOB, 1)
    world.change_layout(RetireModel(MODEL.model_id))
    world.do(world.sign(ALICE, RequestClose(channel_id), 1))
    fees = 100 * COIN * 3 - sum(
        a.balance for a in world.queries.list_accounts(ALICE.public_key)
    )
    world.settle(10 * EPOCH)
    assert world.balance(ALICE) == 300 * COIN - fees + 3 * COIN


# -------------------------------------------------------------------- storage


def test_a_database_opens_again_at_every_height(world):
    build_busy_model(world)
    world.change_layout(RetireModel(OTHER_MODEL.model_id))
    for _ in range(8 * EPOCH):
        world.step()
        final = world.tree.final
        world.reopen()
        again = world.tree.final
        assert again.view.get_roots() == final.view.get_roots()
        assert again.heads == final.heads
        assert again.child_epoch == final.child_epoch
    assert world.ids == (0, 1, 2)
    assert not any(key[1:3] == b"\0\3" for key, _ in world.store.iterate(b"S"))


def test_a_follower_agrees_through_all_of_it(world):
    other = ReshardWorld(store=MemoryStore())
    channel = None

    def follow():
        store = ChainStore(world.store)
        for height in range(other.tree.final_height + 1, world.tree.final_height + 1):
            data = store.get_block_bytes(height)
            copy_bodies(decode_block(data), world.tree, other.tree)
            other.tree.add(data, world.now_ms)
            other.tree.finalize(store.get_certificate(height))
            other.check_books()

    world.do(world.sign(BOB, build_offer(2, 6), 1))
    world.change_layout(SPLIT)
    follow()
    channel = build_split_model(world)
    follow()
    world.change_layout(RetireModel(OTHER_MODEL.model_id))
    world.settle(8 * EPOCH)
    follow()
    assert channel
    assert other.ids == world.ids == (0, 1, 2, 3)
    assert other.tree.final.view.get_roots() == world.tree.final.view.get_roots()


def build_split_model(world):
    world.change_layout(AddModel(OTHER_MODEL, 1))
    world.do(world.sign(ALICE, Transfer(ALICE.public_key, 4, 10 * COIN), 1))
    world.step()
    return open_channel(world, ALICE, BOB, 4)

"""From a registration to a turn in the slots of its shards, two epochs later."""

import pytest
from chain_world import COIN, MODEL
from epoch_world import PEOPLE, EpochWorld

from chain.ledger.producers import get_hosted, get_producers
from chain.records.registration import Register
from chain.records.transfer import Transfer
from shards.producers import NO_HOSTING
from shards.slots import Slot


def build_offer(start, end, **changes):
    fields = {
        "model_id": MODEL.model_id,
        "profile": bytes(32),
        "start": start,
        "end": end,
        "input_price": 10,
        "output_price": 20,
        "measured_us": 1000,
        "collateral": COIN,
        "payout": PEOPLE[0].address,
        "node_key": bytes([7]) * 32,
        "addresses": ("p2p://00@127.0.0.1:9000",),
    } | changes
    return Register(**fields)


class HostWorld(EpochWorld):
    """People who register in shards 1 (layers 0 to 3) and 2."""

    def sign(self, sender, payload, shard=0, **changes):
        changes = {"valid_until_height": self.tree.final_height + 100} | changes
        return super().sign(sender, payload, shard, **changes)

    def fund(self, *people, shards=(1, 2)):
        for person in people:
            for shard in shards:
                transfer = Transfer(person.address, shard, 20 * COIN)
                self.step(self.sign(person.account, transfer))
        self.step()

    def register(self, person, start=0, end=4, **changes):
        shard = 1 if start < 4 else 2
        offer = build_offer(start, end, **changes)
        held = self.step(self.sign(person.account, offer, shard))
        (outcome,) = self.tree.store.get_outcomes(held.height, shard)
        return outcome

    def hosted(self, person):
        return get_hosted(self.ledger(), person.address).shards

    def hosts(self, shard, epoch=None):
        epoch = self.epoch if epoch is None else epoch
        return get_producers(self.ledger(), epoch).get(shard).hosts


@pytest.fixture
def world():
    return HostWorld(min_stake=COIN)


def test_a_host_produces_two_epochs_later(world):
    first = PEOPLE[1]
    world.fund(first)
    assert world.register(first).ok
    world.step()
    assert world.hosted(first) == {1}
    now = world.epoch
    assert world.hosts(1) == ()
    world.end_epoch()
    assert world.hosts(1, now + 2) == (1,)
    assert world.hosts(1, now + 1) == world.hosts(2, now + 2) == ()
    world.end_epoch()
    assert world.epoch == now + 2
    roles = world.tree.final.child_epoch.roles
    assert {roles.get_producers(Slot(now + 2, 1, view))[0] for view in range(9)} == {1}


def test_a_range_over_two_shards_counts_once_both_answered(world):
    person = PEOPLE[2]
    world.fund(person, shards=(1,))
    assert world.register(person, 2, 6).ok
    world.step()
    assert world.hosted(person) == set()
    world.step()
    world.step()
    assert world.hosted(person) == {1, 2}
    assert world.is_conserved()


def test_the_range_of_an_update_takes_the_old_ones_place(world):
    person = PEOPLE[2]
    world.fund(person)
    world.register(person, 0, 8)
    for _ in range(3):
        world.step()
    assert world.hosted(person) == {1, 2}
    world.register(person, 0, 3)
    world.step()
    assert world.hosted(person) == {1}
    # Another home adds to it.
    world.register(person, 5, 6)
    world.step()
    assert world.hosted(person) == {1, 2}


def test_a_refused_registration_hosts_nothing():
    world = HostWorld(min_stake=COIN, shard_mirrors=1)
    for person in PEOPLE[:2]:
        world.fund(person, shards=(1,))
        world.register(person, 0, 3)
        world.step()
        assert world.hosted(person) == {1}
        world.register(person, 0, 8)
        for _ in range(3):
            world.step()
    assert world.hosted(PEOPLE[0]) == {1, 2}
    assert world.hosted(PEOPLE[1]) == set()


def test_nobody_without_a_stake_and_who_stakes_registers_again(world):
    newcomer = PEOPLE[7]
    world.fund(newcomer, shards=(1,))
    world.register(newcomer)
    world.step()
    assert world.hosted(newcomer) == set()
    assert world.bond(newcomer, 300).ok
    assert world.hosted(newcomer) == set()
    world.register(newcomer)
    world.step()
    assert world.hosted(newcomer) == {1}


def test_a_stake_that_is_paid_out_takes_its_hosting_along(world):
    person = PEOPLE[3]
    world.fund(person, shards=(1,))
    world.register(person)
    world.unbond(person, 1000)
    assert world.hosted(person) == {1}
    while world.stake(person) is not None:
        world.end_epoch()
    assert get_hosted(world.ledger(), person.address) == NO_HOSTING
    assert world.hosts(1, world.epoch + 1) == ()
    # Said once more, by whoever has no stake now.
    world.register(person)
    world.step()
    assert get_hosted(world.ledger(), person.address) == NO_HOSTING


def test_back_pressure_holds_for_the_owner():
    world = HostWorld(min_stake=COIN, backlog_limit=1)
    one, two = PEOPLE[:2]
    for person in (one, two):
        world.fund(person, shards=(1,))
    offers = [world.sign(p.account, build_offer(0, 4), 1) for p in (one, two)]
    held = world.step(*offers)
    outcomes = world.tree.store.get_outcomes(held.height, 1)
    assert [outcome.code for outcome in outcomes] == ["", "congested"]

"""Hosts in the root shard: who is believed, and what a boundary makes of it."""

import pytest
from slashing_world import SlashingWorld, account_of

from chain.ledger.producers import (
    HOSTING_EVENT,
    apply_hosting_packet,
    choose_epoch_producers,
    forget_hosted,
    get_hosted,
    get_producers,
)
from primitives.codec import encode
from primitives.errors import DecodeError
from shards.layout import Layout, ShardSpec
from shards.packet import Packet, PacketProof, build_packet_proofs
from shards.producers import NO_HOSTING, Hosting
from shards.slots import draw_custodians

HOSTING_KIND = 9
SEED = b"s" * 32
LAYOUT = Layout(
    (
        ShardSpec(1, bytes(32), 0, 4, 0, False),
        ShardSpec(2, bytes(32), 4, 8, 0, False),
    )
)


@pytest.fixture
def world():
    return SlashingWorld()


def say(world, ledger, account, shards, home=1, version=1):
    payload = encode(Hosting(account, version, shards))
    packet = Packet(home, 0, 0, HOSTING_KIND, 0, payload)
    apply_hosting_packet(ledger, world.context, packet)


def test_a_validator_hosts_what_its_homes_say(world):
    ledger = world.open()
    say(world, ledger, account_of(3), (1, 2))
    assert get_hosted(ledger, account_of(3)).shards == {1, 2}
    say(world, ledger, account_of(3), (1,), version=2)
    assert get_hosted(ledger, account_of(3)).shards == {1}
    say(world, ledger, account_of(3), (), version=3)
    assert get_hosted(ledger, account_of(3)) == NO_HOSTING
    assert [event.kind for event in ledger.commit()] == [HOSTING_EVENT] * 3


def test_nobody_without_a_stake(world):
    ledger = world.open()
    say(world, ledger, b"?" * 32, (1,))
    assert get_hosted(ledger, b"?" * 32) == NO_HOSTING
    assert ledger.compute_writes() == {}


def test_what_no_rule_emits_leaves_no_trace(world):
    ledger = world.open()
    say(world, ledger, account_of(3), (2, 1))
    assert get_hosted(ledger, account_of(3)) == NO_HOSTING
    with pytest.raises(DecodeError):
        apply_hosting_packet(
            ledger, world.context, Packet(1, 0, 0, HOSTING_KIND, 0, b"junk")
        )


def test_saying_it_again_changes_nothing(world):
    ledger = world.open()
    say(world, ledger, account_of(3), (1,))
    ledger.commit()
    say(world, ledger, account_of(3), (1,))
    assert ledger.commit() == ()


def test_a_boundary_chooses_the_producers(world):
    ledger = world.open()
    say(world, ledger, account_of(7), (1, 2))
    say(world, ledger, account_of(2), (2,), home=2)
    validators = world.court.set
    table = choose_epoch_producers(ledger, 32, SEED, LAYOUT, validators)
    assert get_producers(ledger, 32) == table
    powers = [validator.power for validator in validators.validators]
    for shard, hosts in ((1, (7,)), (2, (2, 7))):
        entry = table.get(shard)
        assert entry.hosts == hosts
        drawn = draw_custodians(SEED, shard, powers)
        assert entry.custodians == tuple(sorted(drawn))


def test_indices_are_those_of_the_epochs_set(world):
    ledger = world.open()
    say(world, ledger, account_of(7), (1,))
    members = world.court.set.validators[::-1]
    reversed_set = type(world.court.set)(members)
    table = choose_epoch_producers(ledger, 32, SEED, LAYOUT, reversed_set)
    assert table.get(1).hosts == (2,)


def test_tables_of_epochs_that_are_over_go(world):
    ledger = world.open()
    for epoch in range(30, 36):
        choose_epoch_producers(ledger, epoch, SEED, LAYOUT, world.court.set)
    kept = [e for e in range(30, 36) if get_producers(ledger, e) is not None]
    assert kept == [34, 35]


def test_a_stake_that_goes_takes_its_hosting_along(world):
    ledger = world.open()
    say(world, ledger, account_of(3), (1,))
    forget_hosted(ledger, account_of(3))
    assert get_hosted(ledger, account_of(3)) == NO_HOSTING
    forget_hosted(ledger, account_of(3))


def test_the_largest_hosting_fits_a_packet():
    hosting = Hosting(bytes(32), 2**32 - 1, tuple(range(65528, 65536)))
    packet = Packet(1, 0, 0, HOSTING_KIND, 0, encode(hosting))
    (proof,) = build_packet_proofs([packet], 1)
    assert isinstance(proof, PacketProof)

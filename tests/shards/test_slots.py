"""Slots: who may fill one, in which order, and who keeps a shard alive."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_world import SEED, Chain, make_next

from shards.errors import InvalidPacket
from shards.producers import (
    MAX_HOMES,
    NO_HOSTING,
    HostedHome,
    Hosting,
    HostRecord,
    apply_hosting,
    choose_producers,
)
from shards.slots import (
    CUSTODIANS,
    MAX_PRODUCERS,
    MAX_RANKED_HOSTS,
    Slot,
    draw_custodians,
    get_slot,
    rank_producers,
)

indices = st.sets(st.integers(0, 127), max_size=20)


@given(indices, st.sets(st.integers(0, 127), max_size=3), st.integers(1, 10**6))
def test_hosts_come_first_then_custodians(hosts, custodians, view):
    ranked = rank_producers(SEED, Slot(3, 1, view), hosts, custodians)
    assert len(ranked) == len(set(ranked)) <= MAX_PRODUCERS
    first = ranked[: min(len(hosts), MAX_RANKED_HOSTS)]
    assert set(first) <= hosts
    assert set(ranked[len(first) :]) == custodians - set(first)


def test_everybody_leads_about_equally_often():
    first = Counter(
        rank_producers(SEED, Slot(0, 1, view), range(5), [9, 10, 11])[0]
        for view in range(1000)
    )
    assert set(first) == set(range(5))
    assert max(first.values()) < 1.3 * min(first.values())
    later = Counter(
        rank_producers(SEED, Slot(0, 1, view), [0], [9, 10, 11])[1]
        for view in range(600)
    )
    assert set(later) == {9, 10, 11}
    assert max(later.values()) < 1.3 * min(later.values())


def test_a_shard_without_hosts_has_custodians():
    ranked = rank_producers(SEED, Slot(0, 1, 1), [], [2, 1, 0])
    assert sorted(ranked) == [0, 1, 2]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.integers(1, 63))
def test_custodians_are_few_and_different(powers, shard):
    drawn = draw_custodians(SEED, shard, powers)
    assert len(drawn) == len(set(drawn)) == min(CUSTODIANS, len(powers))
    assert drawn == draw_custodians(SEED, shard, powers)


def test_custodians_differ_by_shard():
    drawn = {draw_custodians(SEED, shard, [1] * 100) for shard in range(1, 20)}
    assert len(drawn) == 19


def test_the_slot_of_a_header():
    chain = Chain()
    header = make_next(chain.tips[2], epoch=0, view=7, anchor=chain.parent, producer=1)
    assert get_slot(header) == Slot(0, 2, 7)


@given(
    st.dictionaries(
        st.integers(0, 9),
        st.lists(st.sets(st.integers(1, 5), min_size=1), min_size=1, max_size=3),
        max_size=10,
    )
)
def test_producers_of_an_epoch_are_those_who_host(hosted):
    records = {}
    for index, homes in hosted.items():
        record = NO_HOSTING
        for home, shards in enumerate(homes, 1):
            said = Hosting(bytes(32), 1, tuple(sorted(shards)))
            record = apply_hosting(record, home, said)
        records[index] = record
    table = choose_producers(SEED, [3, 1, 2], [1] * 10, records)
    assert [entry.shard for entry in table.shards] == [1, 2, 3]
    for entry in table.shards:
        expected = {
            index
            for index, homes in hosted.items()
            if any(entry.shard in shards for shards in homes)
        }
        assert entry.hosts == tuple(sorted(expected))
        drawn = draw_custodians(SEED, entry.shard, [1] * 10)
        assert entry.custodians == tuple(sorted(drawn))
        assert table.get(entry.shard) == entry
    assert table.get(9) is None


def test_what_a_home_says_replaces_what_it_said():
    record = apply_hosting(NO_HOSTING, 2, Hosting(bytes(32), 1, (2, 3)))
    record = apply_hosting(record, 1, Hosting(bytes(32), 1, (1,)))
    assert record == HostRecord((HostedHome(1, 1, (1,)), HostedHome(2, 1, (2, 3))))
    assert record.shards == {1, 2, 3}
    record = apply_hosting(record, 2, Hosting(bytes(32), 2, (2,)))
    assert record.shards == {1, 2}
    assert apply_hosting(record, 2, Hosting(bytes(32), 3, ())).shards == {1}
    assert apply_hosting(NO_HOSTING, 5, Hosting(bytes(32), 1, ())) == NO_HOSTING


def test_a_ninth_home_is_left_out():
    record = NO_HOSTING
    for home in range(1, MAX_HOMES + 2):
        record = apply_hosting(record, home, Hosting(bytes(32), 1, (home,)))
    assert record.shards == set(range(1, MAX_HOMES + 1))
    # One of the eight may still change its mind.
    record = apply_hosting(record, 3, Hosting(bytes(32), 2, (3, 9)))
    assert 9 in record.shards


@pytest.mark.parametrize("shards", [(2, 1), (1, 1)])
def test_hosted_shards_ascend(shards):
    with pytest.raises(InvalidPacket):
        apply_hosting(NO_HOSTING, 1, Hosting(bytes(32), 1, shards))

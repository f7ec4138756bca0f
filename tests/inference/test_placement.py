"""Which layers a node takes: what fits, what is needed, what meets its neighbours."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.capacity.placement import choose_layers, count_hosts
from inference.device.device import measure_device, measure_free_bytes

EIGHT = [10] * 8


def choose(held, room, sizes=EIGHT, luck=0) -> tuple[int, int] | None:
    choice = choose_layers(sizes, held, room, luck)
    return None if choice is None else (choice.layers.start, choice.layers.stop)


@pytest.mark.parametrize(
    ("held", "room", "expected"),
    [
        ([], 80, (0, 8)),
        ([], 1000, (0, 8)),
        ([], 50, (0, 5)),
        ([(0, 5)], 50, (5, 8)),
        # Nobody has the middle; a range that also meets both neighbours is best.
        ([(0, 3), (5, 8)], 20, (3, 5)),
        ([(0, 3), (5, 8)], 40, (3, 5)),
        ([(0, 3), (5, 8)], 50, (0, 5)),
        # A gap that is too large is filled from where others end.
        ([(0, 2)], 30, (2, 5)),
        # Everything is there once; but a half is there twice.
        ([(0, 4), (0, 4), (4, 8)], 50, (4, 8)),
        ([(0, 4), (4, 8), (4, 8)], 50, (0, 4)),
        # What others began is completed: a single layer is left of the range.
        ([(0, 4), (4, 8), (0, 3)], 10, (3, 4)),
        ([], 9, None),
        ([], 0, None),
    ],
)
def test_the_most_needed_range_that_fits(held, room, expected) -> None:
    assert choose(held, room) == expected


def test_layers_of_other_sizes_are_counted_by_their_bytes() -> None:
    sizes = [100, 1, 1, 1, 50, 1]
    assert choose([], 60, sizes) == (1, 6)
    assert choose([], 4, sizes) == (1, 4)
    assert choose([], 99, [100]) is None


def test_nodes_that_join_together_spread() -> None:
    chosen = {choose([], 20, luck=luck) for luck in range(8)}
    assert chosen == {(0, 2), (6, 8)}
    chosen = {choose([(0, 4), (4, 8)], 40, luck=luck) for luck in range(8)}
    assert chosen == {(0, 4), (4, 8)}


ranges = st.integers(0, 9).flatmap(
    lambda start: st.tuples(st.just(start), st.integers(start + 1, 10))
)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=10),
    st.lists(ranges, max_size=8),
    st.integers(0, 200),
    st.integers(0, 2**64),
)
def test_a_choice_fits_and_nothing_that_fits_has_more_that_nobody_hosts(
    sizes, held, room, luck
) -> None:
    choice = choose_layers(sizes, held, room, luck)
    hosts = count_hosts(len(sizes), held)
    fitting = [
        range(start, end)
        for start in range(len(sizes))
        for end in range(start + 1, len(sizes) + 1)
        if sum(sizes[start:end]) <= room
    ]
    if choice is None:
        assert not fitting
        return
    assert choice.layers in fitting

    def unserved(layers: range) -> int:
        return sum(hosts[layer] == 0 for layer in layers)

    assert choice.unserved == unserved(choice.layers)
    assert choice.unserved == max(map(unserved, fitting))


@given(st.integers(1, 12), st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_nodes_that_join_one_by_one_serve_all_layers(count, rooms) -> None:
    """Each sees those before; with room for all layers together, none is left out."""
    held: list[tuple[int, int]] = []
    for room in rooms:
        choice = choose_layers([1] * count, held, room)
        assert choice is not None
        held.append((choice.layers.start, choice.layers.stop))
    if sum(rooms) >= count:
        assert 0 not in count_hosts(count, held)


def test_free_memory_is_what_a_limit_leaves(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:    80 kB\n")
    assert measure_free_bytes(meminfo, tmp_path) == 80 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert measure_free_bytes(meminfo, tmp_path) == 80 * 1024
    (tmp_path / "memory.max").write_text("51000\n")
    assert measure_free_bytes(meminfo, tmp_path) == 50_000
    (tmp_path / "memory.max").write_text("500\n")
    assert measure_free_bytes(meminfo, tmp_path) == 0
    meminfo.write_text("")
    assert measure_free_bytes(meminfo, tmp_path) == 0


def test_this_machine_can_be_measured() -> None:
    device = measure_device()
    assert device.bytes_per_s > 0
    assert 0 < device.room_bytes < device.free_bytes

"""Layouts: which shard holds which layers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.codec import decode, encode
from shards.errors import InvalidLayout, UnknownLayers
from shards.layout import MAX_SHARDS, Layout, ShardSpec, cut_layers, validate_layout

A, B = bytes([1]) * 32, bytes([2]) * 32
LAYOUT = Layout(
    (
        ShardSpec(1, A, 0, 4, 0, False),
        ShardSpec(2, A, 4, 8, 0, False),
        ShardSpec(5, B, 0, 3, 0, False),
        ShardSpec(9, A, 8, 9, 0, False),
    )
)


def test_a_good_layout():
    validate_layout(LAYOUT)
    assert LAYOUT.shard_ids == (0, 1, 2, 5, 9)
    assert decode(Layout, encode(LAYOUT)) == LAYOUT
    validate_layout(Layout(()))


@pytest.mark.parametrize(
    ("model", "layer", "shard"),
    [(A, 0, 1), (A, 3, 1), (A, 4, 2), (A, 8, 9), (B, 2, 5)],
)
def test_the_home_of_a_layer(model, layer, shard):
    assert LAYOUT.home_shard(model, layer) == shard


@pytest.mark.parametrize(("model", "layer"), [(A, 9), (B, 3), (bytes(32), 0)])
def test_layers_without_a_home(model, layer):
    with pytest.raises(UnknownLayers):
        LAYOUT.home_shard(model, layer)


@pytest.mark.parametrize(
    ("start", "end", "shards"),
    [(0, 4, (1,)), (3, 5, (1, 2)), (0, 9, (1, 2, 9)), (4, 8, (2,)), (7, 9, (2, 9))],
)
def test_the_shards_of_a_range(start, end, shards):
    assert LAYOUT.shards_of_range(A, start, end) == shards


@pytest.mark.parametrize(
    ("model", "start", "end"), [(A, 0, 10), (A, 9, 10), (B, 1, 4), (bytes(32), 0, 1)]
)
def test_ranges_beyond_the_layers(model, start, end):
    with pytest.raises(UnknownLayers):
        LAYOUT.shards_of_range(model, start, end)


def test_specs_by_id():
    assert LAYOUT.get_spec(5) == ShardSpec(5, B, 0, 3, 0, False)
    assert LAYOUT.get_spec(0) is None
    assert LAYOUT.get_spec(3) is None


@pytest.mark.parametrize(
    ("specs", "match"),
    [
        (((0, A, 0, 4),), "shard 0 follows"),
        (((2, A, 0, 4), (1, A, 4, 8)), "shard 1 follows"),
        (((1, A, 0, 4), (1, A, 4, 8)), "shard 1 follows"),
        (((1, A, 0, 4), (2, A, 5, 8)), "ends at 4"),
        (((1, A, 0, 4), (2, A, 3, 8)), "ends at 4"),
        (((1, A, 1, 4),), r"no shard holds layers \[0, 1\)"),
        (((1, A, 0, 0),), "holds no layer"),
        (((1, A, 5, 4),), "holds no layer"),
        (tuple((i + 1, A, i, i + 1) for i in range(MAX_SHARDS)), "fewer than"),
    ],
)
def test_bad_layouts(specs, match):
    with pytest.raises(InvalidLayout, match=match):
        validate_layout(Layout(tuple(ShardSpec(*spec, 0, False) for spec in specs)))


@given(st.integers(1, 200), st.integers(1, 60))
def test_cuts_cover_all_layers_evenly(layers, count):
    if count > layers:
        with pytest.raises(InvalidLayout):
            cut_layers(layers, count)
        return
    ranges = cut_layers(layers, count)
    sizes = [end - start for start, end in ranges]
    assert len(ranges) == count
    assert ranges[0][0] == 0
    assert ranges[-1][1] == layers
    assert all(left[1] == right[0] for left, right in pairwise(ranges))
    assert max(sizes) - min(sizes) <= 1


def test_cuts_into_nothing():
    with pytest.raises(InvalidLayout):
        cut_layers(8, 0)


def test_every_spec_counts_in_the_root():
    roots = {Layout(LAYOUT.shards[:i]).compute_root() for i in range(5)}
    assert len(roots) == 5

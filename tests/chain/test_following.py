"""Which shards a node wants: those it is told, and those of its layers."""

from itertools import product

from chain.tree.following import FOLLOW_ALL, Follow, Layers
from shards.layout import Layout, ShardSpec

OURS, OTHERS = bytes([1]) * 32, bytes([2]) * 32


def build_layout(*ranges: tuple[int, bytes, int, int]) -> Layout:
    return Layout(
        tuple(
            ShardSpec(shard, model, start, end, changed_epoch=0, is_retiring=False)
            for shard, model, start, end in ranges
        )
    )


LAYOUT = build_layout((1, OURS, 0, 4), (2, OURS, 4, 8), (3, OTHERS, 0, 8))
SPLIT = build_layout(
    (1, OURS, 0, 2), (2, OURS, 4, 8), (3, OTHERS, 0, 8), (4, OURS, 2, 4)
)


def test_everything_is_followed_unless_told_otherwise():
    assert FOLLOW_ALL.choose(LAYOUT) == {0, 1, 2, 3}
    assert FOLLOW_ALL.choose(SPLIT) == {0, 1, 2, 3, 4}


def test_the_root_shard_is_always_followed():
    assert Follow(frozenset()).choose(LAYOUT) == {0}
    assert Follow(frozenset({3, 9})).choose(LAYOUT) == {0, 3}


def test_layers_bring_their_shards_whatever_their_ids():
    follow = Follow(frozenset({3}), (Layers(OURS, 0, 3),))
    assert follow.choose(LAYOUT) == {0, 1, 3}
    assert follow.choose(SPLIT) == {0, 1, 3, 4}


def test_a_shard_is_wanted_for_any_layer_that_it_shares():
    """Every range of layers, against the layers one by one."""
    for start, end in product(range(9), range(1, 9)):
        if start < end:
            wanted = Follow(frozenset(), (Layers(OURS, start, end),)).choose(LAYOUT)
            held = set(range(start, end))
            expected = {
                spec.shard_id
                for spec in LAYOUT.shards
                if spec.model_id == OURS and held & set(range(spec.start, spec.end))
            }
            assert wanted == {0} | expected

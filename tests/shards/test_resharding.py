"""How a layout follows another: the pure rules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from shards.errors import InvalidLayout
from shards.layout import MAX_SHARDS, Layout, ShardSpec, validate_layout
from shards.resharding import (
    MAX_SHARD_ID,
    add_model,
    compute_next_id,
    drop_model,
    is_retiring,
    retire_model,
    split_shard,
)

A, B, C = (bytes([i]) * 32 for i in range(1, 4))
LAYOUT = Layout(
    (
        ShardSpec(1, A, 0, 4, 0, False),
        ShardSpec(2, A, 4, 8, 0, False),
        ShardSpec(3, B, 0, 6, 0, False),
    )
)


def get_ranges(layout, model):
    return [(s.shard_id, s.start, s.end) for s in layout.shards if s.model_id == model]


def test_a_split_keeps_the_old_id():
    after = split_shard(LAYOUT, 1, 3, 7, 4)
    assert get_ranges(after, A) == [(1, 0, 3), (2, 4, 8), (4, 3, 4)]
    assert [s.changed_epoch for s in after.shards] == [7, 7, 0, 7]
    assert get_ranges(after, B) == get_ranges(LAYOUT, B)
    assert after.shards_of_range(A, 0, 8) == (1, 4, 2)


@pytest.mark.parametrize(
    ("shard", "layer", "match"),
    [
        (0, 3, "no layer shard 0"),
        (9, 3, "no layer shard 9"),
        (1, 0, "does not split"),
        (1, 4, "does not split"),
        (2, 3, "does not split"),
        (2, 8, "does not split"),
    ],
)
def test_splits_that_split_nothing(shard, layer, match):
    with pytest.raises(InvalidLayout, match=match):
        split_shard(LAYOUT, shard, layer, 7, 4)


def test_a_shard_of_one_layer_cannot_be_split():
    layout = split_shard(LAYOUT, 1, 1, 7, 4)
    for layer in range(3):
        with pytest.raises(InvalidLayout, match="does not split"):
            split_shard(layout, 1, layer, 8, 5)


def test_a_model_comes():
    after = add_model(LAYOUT, C, 5, 2, 7, 4)
    assert get_ranges(after, C) == [(4, 0, 3), (5, 3, 5)]
    assert [s.changed_epoch for s in after.shards] == [0, 0, 0, 7, 7]
    with pytest.raises(InvalidLayout, match="already"):
        add_model(after, C, 5, 2, 8, 6)
    for layers, count in ((5, 0), (5, 6), (0, 1)):
        with pytest.raises(InvalidLayout, match="cannot be cut"):
            add_model(LAYOUT, C, layers, count, 7, 4)


def test_a_model_goes():
    retiring = retire_model(LAYOUT, A, 7)
    assert [s.is_retiring for s in retiring.shards] == [True, True, False]
    assert [s.changed_epoch for s in retiring.shards] == [7, 7, 0]
    assert get_ranges(retiring, A) == get_ranges(LAYOUT, A)
    assert drop_model(retiring, A).shard_ids == (0, 3)
    with pytest.raises(InvalidLayout, match="already"):
        retire_model(retiring, A, 8)
    with pytest.raises(InvalidLayout, match="shard 1 is retiring"):
        split_shard(retiring, 1, 2, 8, 4)
    with pytest.raises(InvalidLayout, match="already"):
        add_model(retiring, A, 8, 1, 8, 4)
    with pytest.raises(InvalidLayout, match="no model"):
        retire_model(LAYOUT, C, 7)


def test_there_is_an_end_to_shards():
    layout = add_model(Layout(()), A, 200, MAX_SHARDS - 1, 1, 1)
    with pytest.raises(InvalidLayout, match="fewer than"):
        split_shard(layout, 1, 1, 2, compute_next_id(layout))
    with pytest.raises(InvalidLayout, match="fewer than"):
        add_model(layout, B, 1, 1, 2, compute_next_id(layout))
    with pytest.raises(InvalidLayout, match="fewer than"):
        add_model(Layout(()), A, 200, MAX_SHARDS, 1, 1)


def test_there_is_an_end_to_ids():
    split_shard(LAYOUT, 1, 2, 1, MAX_SHARD_ID)
    with pytest.raises(InvalidLayout, match="have been used"):
        split_shard(LAYOUT, 1, 2, 1, MAX_SHARD_ID + 1)


class Layouts(RuleBasedStateMachine):
    """Changes one after the other, good and bad."""

    @initialize()
    def begin(self):
        self.layout = LAYOUT
        self.layers = {A: 8, B: 6}
        self.epoch = 0
        self.next_id = 4
        self.gone: set[int] = set()

    def take(self, layout: Layout) -> None:
        self.gone |= set(self.layout.shard_ids) - set(layout.shard_ids)
        self.layout = layout
        self.next_id = max(self.next_id, compute_next_id(layout))

    @rule(shard=st.integers(0, 12), layer=st.integers(0, 10))
    def split(self, shard, layer):
        self.epoch += 1
        before = self.layout
        spec = before.get_spec(shard)
        is_good = spec and not spec.is_retiring and spec.start < layer < spec.end
        if not is_good:
            with pytest.raises(InvalidLayout):
                split_shard(before, shard, layer, self.epoch, self.next_id)
            return
        self.take(split_shard(before, shard, layer, self.epoch, self.next_id))
        assert before.home_shard(spec.model_id, layer) == shard
        assert self.layout.home_shard(spec.model_id, layer) not in before.shard_ids
        assert self.layout.home_shard(spec.model_id, layer - 1) == shard

    @rule(name=st.binary(min_size=1, max_size=1), layers=st.integers(1, 9))
    def add(self, name, layers):
        model = name * 32
        self.epoch += 1
        if model in self.layers or len(self.layout.shards) > 50:
            return
        count = (layers + 1) // 2
        after = add_model(self.layout, model, layers, count, self.epoch, self.next_id)
        self.layers[model] = layers
        self.take(after)

    @precondition(lambda self: self.layers)
    @rule(luck=st.randoms(use_true_random=False))
    def retire(self, luck):
        self.epoch += 1
        model = luck.choice(sorted(self.layers))
        if is_retiring(self.layout, model):
            del self.layers[model]
            self.take(drop_model(self.layout, model))
        else:
            self.take(retire_model(self.layout, model, self.epoch))

    @invariant()
    def every_layer_has_one_shard(self):
        validate_layout(self.layout)
        for model, layers in self.layers.items():
            owners = [
                spec.shard_id
                for layer in range(layers)
                for spec in self.layout.shards
                if spec.model_id == model and spec.start <= layer < spec.end
            ]
            assert len(owners) == layers
            assert self.layout.shards_of_range(model, 0, layers) == tuple(
                dict.fromkeys(owners)
            )

    @invariant()
    def ids_are_never_used_again(self):
        assert not self.gone & set(self.layout.shard_ids)


Layouts.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestLayouts = Layouts.TestCase


@given(st.lists(st.integers(1, 30), max_size=8, unique=True))
def test_the_order_of_splits_does_not_matter_for_what_is_covered(cuts):
    layout = add_model(Layout(()), A, 31, 1, 1, 1)
    for cut in cuts:
        home = layout.home_shard(A, cut)
        layout = split_shard(layout, home, cut, 2, compute_next_id(layout))
    starts = sorted(spec.start for spec in layout.shards)
    assert starts == sorted({0, *cuts})

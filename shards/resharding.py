"""
How a layout follows another: a shard is split, a model comes, a model goes.

Theory of operation
-------------------
    split    [0, 8) in shard 1            [0, 3) in shard 1, [3, 8) in a new shard
    add      -                            new, empty shards over all of its layers
    retire   the model's shards           the same shards, retiring
    drop     the model's retiring shards  -

A shard keeps its id, with balances, cursors and packets, for as long as it lives, and
an id is never given again: so a cursor, a nonce or a packet always means one shard.
Every layout covers the layers of every model that it has.

What moves between shards because of it is not known here; `changed_epoch` of all shards
of a changed model says that something may have to.

Spec: docs/protocol/06-shards.md
"""

from msgspec.structs import replace

from primitives.types import Epoch, ShardId
from shards.errors import InvalidLayout
from shards.layout import (
    ROOT_SHARD,
    Layout,
    ShardSpec,
    cut_layers,
    validate_layout,
)

MAX_SHARD_ID = 2**16 - 1
"""What a `ShardId` can say; at a change per minute it lasts for weeks, and a network
that gets there needs new genesis anyway."""


def split_shard(
    layout: Layout, shard: ShardId, layer: int, epoch: Epoch, new_id: ShardId
) -> Layout:
    """Return the layout in which a new shard holds a shard's layers from `layer` on.

    Args:
        layout: Of the epoch before.
        shard: Keeps the layers below.
        layer: First one of the new shard.
        epoch: First one with the new layout.
        new_id: Above every id that ever was.

    Raises:
        InvalidLayout: No such shard, a retiring one, or nothing would be left of it.
    """
    spec = layout.get_spec(shard)
    if spec is None:
        raise InvalidLayout(f"there is no layer shard {shard}")
    if spec.is_retiring:
        raise InvalidLayout(f"shard {shard} is retiring")
    if not spec.start < layer < spec.end:
        raise InvalidLayout(
            f"layer {layer} does not split shard {shard}, layers "
            f"[{spec.start}, {spec.end})"
        )
    kept, given = (spec.start, layer), (layer, spec.end)
    specs = [
        replace(spec, start=kept[0], end=kept[1]) if old is spec else old
        for old in layout.shards
    ]
    specs.append(ShardSpec(new_id, spec.model_id, *given, epoch, False))
    return _build(_mark(specs, spec.model_id, epoch))


def add_model(
    layout: Layout,
    model_id: bytes,
    layers: int,
    count: int,
    epoch: Epoch,
    first_id: ShardId,
) -> Layout:
    """Return the layout with a model more, cut into `count` shards of equal size.

    Args:
        layout: Of the epoch before.
        model_id: Of a model that it does not have.
        layers: Of the model.
        count: New shards.
        epoch: First one with the new layout.
        first_id: Above every id that ever was; the others follow.

    Raises:
        InvalidLayout: It has the model, too few layers for so many shards, too many
            shards.
    """
    if _has_model(layout, model_id):
        raise InvalidLayout(f"model {model_id.hex()[:16]} has shards already")
    fresh = [
        ShardSpec(first_id + i, model_id, start, end, epoch, False)
        for i, (start, end) in enumerate(cut_layers(layers, count))
    ]
    return _build([*layout.shards, *fresh])


def retire_model(layout: Layout, model_id: bytes, epoch: Epoch) -> Layout:
    """Return the layout in which all shards of a model are retiring.

    Raises:
        InvalidLayout: It has no such model, or that is retiring already.
    """
    if not _has_model(layout, model_id):
        raise InvalidLayout(f"there is no model {model_id.hex()[:16]}")
    if is_retiring(layout, model_id):
        raise InvalidLayout(f"model {model_id.hex()[:16]} is retiring already")
    specs = [
        replace(spec, is_retiring=True) if spec.model_id == model_id else spec
        for spec in layout.shards
    ]
    return _build(_mark(specs, model_id, epoch))


def drop_model(layout: Layout, model_id: bytes) -> Layout:
    """Return the layout without a model's shards, which are retiring and empty."""
    assert is_retiring(layout, model_id)
    return _build([spec for spec in layout.shards if spec.model_id != model_id])


def is_retiring(layout: Layout, model_id: bytes) -> bool:
    """Tell whether a model's shards are retiring."""
    return any(s.is_retiring for s in layout.shards if s.model_id == model_id)


def compute_next_id(layout: Layout) -> ShardId:
    """Return the lowest id above all of a layout's."""
    return max((spec.shard_id for spec in layout.shards), default=ROOT_SHARD) + 1


def _has_model(layout: Layout, model_id: bytes) -> bool:
    return any(spec.model_id == model_id for spec in layout.shards)


def _mark(specs: list[ShardSpec], model_id: bytes, epoch: Epoch) -> list[ShardSpec]:
    return [
        replace(spec, changed_epoch=epoch) if spec.model_id == model_id else spec
        for spec in specs
    ]


def _build(specs: list[ShardSpec]) -> Layout:
    layout = Layout(tuple(specs))
    if specs and specs[-1].shard_id > MAX_SHARD_ID:
        raise InvalidLayout("all shard ids have been used")
    validate_layout(layout)
    return layout

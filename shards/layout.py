"""
The layout: which shard is the ledger of which layers.

Shard 0, the root shard, is implicit and holds stake, models and parameters.  Every
other shard is one contiguous layer range of one model; a model's shards cover its
layers without gap or overlap.

A layout is of an epoch; how one follows another: shards/resharding.py.

Spec: docs/protocol/06-shards.md
"""

from itertools import pairwise

from primitives.codec import Record, encode
from primitives.merkle import compute_list_root
from primitives.types import U16, Epoch, Hash32, ShardId
from shards.errors import InvalidLayout, UnknownLayers

ROOT_SHARD: ShardId = 0
MAX_SHARDS = 64
"""Chunk headers grow with their number: 64 of 2 KiB are an eighth of a block."""


class ShardSpec(Record):
    """One shard: layers [start, end) of a model."""

    shard_id: ShardId
    model_id: Hash32
    start: U16
    end: U16
    changed_epoch: Epoch
    """First epoch in which the model's shards are these; 0 since genesis."""
    is_retiring: bool
    """Its model goes: nothing new begins here, and what is here moves out."""


class Layout(Record):
    """All layer shards, in ascending order of their ids."""

    shards: tuple[ShardSpec, ...]

    @property
    def shard_ids(self) -> tuple[ShardId, ...]:
        """All shard ids, the root shard first."""
        return (ROOT_SHARD, *(spec.shard_id for spec in self.shards))

    def get_spec(self, shard_id: ShardId) -> ShardSpec | None:
        """Return the layer shard of that id, or None (also for the root shard)."""
        for spec in self.shards:
            if spec.shard_id == shard_id:
                return spec
        return None

    def home_shard(self, model_id: bytes, start: int) -> ShardId:
        """Return the shard that holds layer `start` of the model.

        Raises:
            UnknownLayers: No shard does.
        """
        for spec in self.shards:
            if spec.model_id == model_id and spec.start <= start < spec.end:
                return spec.shard_id
        raise UnknownLayers(f"no shard holds layer {start} of {model_id.hex()[:16]}")

    def shards_of_range(
        self, model_id: bytes, start: int, end: int
    ) -> tuple[ShardId, ...]:
        """Return the shards that hold layers [start, end), in layer order.

        Raises:
            UnknownLayers: Some layer of the range is in no shard.
        """
        found = sorted(
            (spec.start, spec.shard_id, spec.end)
            for spec in self.shards
            if spec.model_id == model_id and spec.start < end and start < spec.end
        )
        if not found or found[0][0] > start or found[-1][2] < end:
            raise UnknownLayers(
                f"no shards hold layers [{start}, {end}) of {model_id.hex()[:16]}"
            )
        return tuple(shard_id for _, shard_id, _ in found)

    def compute_root(self) -> bytes:
        """Return the Merkle root over the shards, as headers carry it."""
        return compute_list_root([encode(spec) for spec in self.shards])


def validate_layout(layout: Layout) -> None:
    """Check ids, ranges, gaps and overlaps.

    Raises:
        InvalidLayout: Says which shard is wrong.
    """
    if len(layout.shards) >= MAX_SHARDS:
        raise InvalidLayout(f"{len(layout.shards)} shards, fewer than {MAX_SHARDS} fit")
    for left, right in pairwise(layout.shard_ids):
        if right <= left:
            raise InvalidLayout(f"shard {right} follows shard {left}")
    by_model: dict[bytes, list[ShardSpec]] = {}
    for spec in layout.shards:
        if spec.start >= spec.end:
            raise InvalidLayout(f"shard {spec.shard_id} holds no layer")
        by_model.setdefault(spec.model_id, []).append(spec)
    for specs in by_model.values():
        specs.sort(key=lambda spec: spec.start)
        if specs[0].start != 0:
            raise InvalidLayout(f"no shard holds layers [0, {specs[0].start})")
        for left_spec, right_spec in pairwise(specs):
            if left_spec.end != right_spec.start:
                raise InvalidLayout(
                    f"shard {left_spec.shard_id} ends at {left_spec.end}, "
                    f"shard {right_spec.shard_id} starts at {right_spec.start}"
                )


def cut_layers(layers: int, count: int) -> tuple[tuple[int, int], ...]:
    """Return `count` contiguous ranges that cover [0, layers), longer ones first.

    Raises:
        InvalidLayout: Fewer layers than ranges, or no range at all.
    """
    if not 1 <= count <= layers:
        raise InvalidLayout(f"{layers} layers cannot be cut into {count} ranges")
    size, longer = divmod(layers, count)
    ranges = []
    start = 0
    for i in range(count):
        end = start + size + (1 if i < longer else 0)
        ranges.append((start, end))
        start = end
    return tuple(ranges)

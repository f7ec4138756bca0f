"""
Layouts and models in the root shard's state: one layout per epoch, as with validators.

    boundary of e chooses the layout of e + 2

The state after a block is that of the epoch of its children: the boundary block of e,
with which e + 1 begins, has the roots of the shards of e + 1.

So every header of an epoch names its own layout and the next one, and whoever holds a
shard, routes to it or reads it knows an epoch ahead what becomes of it.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Mapping

from chain.errors import StoreError
from chain.ledger.docket import decide_proposals
from chain.ledger.ledger import Ledger, Totals
from chain.records.header import Header
from chain.records.keys import (
    TOTALS_KEY,
    build_farewell_key,
    build_layout_key,
    build_model_key,
)
from chain.records.model import ModelRecord
from consensus.validators import ValidatorSet
from shards.layout import Layout
from shards.resharding import drop_model


def get_layout(ledger: Ledger, epoch: int) -> Layout:
    """Return the layout of an epoch: the one of the next block, or that after it.

    Raises:
        StoreError: The state has none.
    """
    layout = ledger.get(build_layout_key(epoch), Layout)
    if layout is None:
        raise StoreError(f"the state has no layout of epoch {epoch}")
    return layout


def find_layout(ledger: Ledger, epoch: int) -> Layout | None:
    """Return the layout of an epoch, as long as it is kept."""
    return ledger.get(build_layout_key(epoch), Layout)


def get_state_layout_root(header: Header, epoch_blocks: int) -> bytes:
    """Return the root of the layout whose shards are in the state after a block."""
    is_boundary = header.height > 0 and header.height % epoch_blocks == 0
    return header.next_layout_root if is_boundary else header.layout_root


def list_models(ledger: Ledger, layout: Layout) -> Mapping[bytes, ModelRecord]:
    """Return the models of a layout by id.

    Raises:
        StoreError: The state lacks one of them.
    """
    models = {}
    for model_id in sorted({spec.model_id for spec in layout.shards}):
        model = ledger.get(build_model_key(model_id), ModelRecord)
        if model is None:
            raise StoreError(f"the state has no model {model_id.hex()}")
        models[model_id] = model
    return models


def choose_layout(ledger: Ledger, epoch: int, validators: ValidatorSet) -> Layout:
    """Put down the layout of `epoch` + 2, at the boundary of `epoch`; return it.

    That of `epoch` is kept for one more: frauds are still judged.

    Shards that are in its layout and not in the next one are gone from here on.

    Args:
        ledger: Of the root shard.
        epoch: The one that ends.
        validators: Of it; they approve of changes.
    """
    ending, following = get_layout(ledger, epoch), get_layout(ledger, epoch + 1)
    _let_go(ledger, ending, following)
    kept = _drop_empty(ledger, following)
    # One change at a time, and what is empty goes first.
    chosen = kept
    if kept is following:
        chosen = decide_proposals(ledger, epoch, validators, following)
    ledger.put(build_layout_key(epoch + 2), chosen)
    if epoch > 0:
        ledger.delete(build_layout_key(epoch - 1))
    return chosen


def _drop_empty(ledger: Ledger, layout: Layout) -> Layout:
    """Return the layout without one model of which all shards have said farewell."""
    for model_id in sorted({spec.model_id for spec in layout.shards}):
        keys = [
            build_farewell_key(spec.shard_id)
            for spec in layout.shards
            if spec.model_id == model_id
        ]
        if all(ledger.get(key, Totals) is not None for key in keys):
            return drop_model(layout, model_id)
    return layout


def _let_go(ledger: Ledger, ending: Layout, following: Layout) -> None:
    """Take over the totals of shards that are gone; forget their models."""
    for spec in ending.shards:
        if spec.shard_id in following.shard_ids:
            continue
        key = build_farewell_key(spec.shard_id)
        left = ledger.get(key, Totals)
        assert left is not None
        totals = ledger.get(TOTALS_KEY, Totals) or Totals(0, 0, 0)
        together = Totals(
            totals.genesis + left.genesis,
            totals.minted + left.minted,
            totals.burned + left.burned,
        )
        ledger.put(TOTALS_KEY, together)
        ledger.delete(key)
        ledger.delete(build_model_key(spec.model_id))

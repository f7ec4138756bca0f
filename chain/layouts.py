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

from chain.contracts.model import ModelRecord
from chain.errors import StoreError
from chain.header import Header
from chain.keys import build_layout_key, build_model_key
from chain.ledger import Ledger
from shards.layout import Layout


def get_layout(ledger: Ledger, epoch: int) -> Layout:
    """Return the layout of an epoch: the one of the next block, or that after it.

    Raises:
        StoreError: The state has none.
    """
    layout = ledger.get(build_layout_key(epoch), Layout)
    if layout is None:
        raise StoreError(f"the state has no layout of epoch {epoch}")
    return layout


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


def choose_layout(ledger: Ledger, epoch: int) -> None:
    """Put down the layout of `epoch` + 2, at the boundary of `epoch`."""
    ledger.put(build_layout_key(epoch + 2), get_layout(ledger, epoch + 1))
    ledger.delete(build_layout_key(epoch))

"""The context of what runs on a held block: chunks, the system step, the mempool."""

from chain.context import Context
from chain.held import HeldBlock
from chain.spec import ChainSpec
from primitives.types import ShardId
from shards.chunk import get_count


def build_context(spec: ChainSpec, parent: HeldBlock, shard: ShardId) -> Context:
    """Return what the rules may know in a chunk that follows `parent`."""
    return Context(
        chain_id=spec.chain_id,
        shard=shard,
        epoch=parent.child_epoch.epoch,
        height=parent.height,
        time_ms=parent.header.time_ms,
        layout=spec.layout,
        models=spec.models,
        params=spec.params,
        consumed={
            other: get_count(head.in_cursor, shard)
            for other, head in parent.heads.items()
        },
    )

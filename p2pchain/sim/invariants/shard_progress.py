"""
Progress of shards: in calm weather every shard's chain goes on within some blocks.

A shard may rest for a view, because nobody has anything to do there or because a
villain was first in rank; the next slot has other producers.
"""

from typing import TYPE_CHECKING

from p2pchain.sim.chains.tree_chain import TreeChain
from p2pchain.sim.errors import InvariantBroken
from p2pchain.sim.invariants.progress import compute_limit_ms, describe
from shards.chunk import get_count
from shards.layout import ROOT_SHARD

if TYPE_CHECKING:
    from p2pchain.sim.world import World

BLOCKS = 16
"""In which each shard has a chunk once faults are over: twice K, so that whatever was
under way is included or forgotten."""


def assert_shard_progress(world: "World") -> None:
    """Let time pass until every shard has one more chunk in a final block.

    Raises:
        InvariantBroken: Some shard has none within `BLOCKS` blocks.
    """
    if world.setup.chain != "tree":
        return
    tips, last = dict(world.judge.shards.tips), world.judge.height + BLOCKS
    before = {shard: tip.seq for shard, tip in tips.items()}

    def list_still() -> list[int]:
        now = world.judge.shards.tips
        return [
            shard
            for shard in list_live_shards(world)
            if shard not in now or now[shard].seq <= before.get(shard, 0)
        ]

    def is_over() -> bool:
        return world.judge.height >= last or not list_still()

    world.run_for(BLOCKS * compute_limit_ms(world), is_over)
    if still := list_still():
        raise InvariantBroken(
            "shard progress",
            f"no chunk of shards {still} in {BLOCKS} blocks: {describe(world)}",
        )


def list_live_shards(world: "World") -> list[int]:
    """Return the layer shards of the newest layout that have something to do.

    Where layouts change that is where packets wait: nobody may have funds in a shard
    that is new.  Otherwise everybody has funds everywhere.
    """
    chains = [node.chain for node in world.honest if isinstance(node.chain, TreeChain)]
    chain = max(chains, key=lambda chain: chain.final_height)
    newest, still = chain.tree, {ROOT_SHARD} | chain.halted
    ids = [shard for shard in newest.layout.shard_ids if shard not in still]
    if not world.setup.is_resharding:
        return ids
    heads = newest.final.heads
    return [
        shard
        for shard in ids
        if any(
            get_count(head.out_count, shard) > get_count(heads[shard].in_cursor, src)
            for src, head in heads.items()
        )
    ]

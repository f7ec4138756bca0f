"""
Progress: once faults stop, the chain goes on, and everybody comes along.

The protocol promises a block within ten times (Delta + beta) of the moment from which
on messages arrive in time.  Two things stretch that, and both can be computed when the
faults stop: Delta is what R8 has made of it, and every leader in between who will not
propose costs its view's timers: a villain, or who lost its log and has to wait.
"""

from typing import TYPE_CHECKING

from consensus.leader import compute_leader
from p2pchain.sim.errors import InvariantBroken
from p2pchain.sim.machine.requests import STATUS_MS
from p2pchain.sim.network import REQUEST_TIMEOUT_MS

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

MAX_BACKOFF = 16
"""R8's cap."""
MARGIN = 10
"""Delays and builds until the first block after the faults."""
MAX_LOOK_AHEAD = 64
"""Views in which to look for an honest leader."""
BLOCKS_BEHIND = 2
"""Between the fastest and the slowest node while all is well."""


def assert_progress(world: "World") -> None:
    """Let time pass until the tip has advanced and everybody is there.

    Raises:
        InvariantBroken: It takes longer than it may.
    """
    before = world.judge.height
    limit_ms = compute_limit_ms(world)
    start_ms = world.now_ms
    world.run_for(limit_ms, lambda: world.judge.height > before)
    if world.judge.height == before:
        raise InvariantBroken(
            "progress",
            f"no block within {limit_ms} ms after {start_ms}: {describe(world)}",
        )
    world.run_for(compute_catch_up_ms(world), lambda: is_together(world, before + 1))
    if not is_together(world, before + 1):
        raise InvariantBroken("progress", f"some stay behind: {describe(world)}")


def is_together(world: "World", height: int) -> bool:
    """Tell whether all honest nodes have a height and are close to each other."""
    heights = [node.chain.final_height for node in world.honest]
    return min(heights) >= height and max(heights) - min(heights) <= BLOCKS_BEHIND


def compute_limit_ms(world: "World") -> int:
    """Return how long the next final block may take from now on."""
    params = world.params
    backoff = max(_compute_backoff(node) for node in world.honest)
    delta_ms = params.delta_ms * backoff
    limit_ms = MARGIN * (delta_ms + params.build_ms) + params.interval_ms
    for _ in range(_count_bad_leaders(world)):
        backoff = min(2 * backoff, MAX_BACKOFF)
        limit_ms += params.interval_ms + params.build_ms
        limit_ms += 4 * params.delta_ms * backoff
    return limit_ms


def compute_catch_up_ms(world: "World") -> int:
    """Return how long the last node may take to be where the others are."""
    ranges = world.judge.height // 8 + len(world.nodes)
    return 2 * compute_limit_ms(world) + 2 * STATUS_MS + ranges * REQUEST_TIMEOUT_MS


def describe(world: "World") -> str:
    """Return where everybody is."""
    return ", ".join(
        f"{node.name} {node.chain.final_height}@{node.epoch.epoch}/{node.view}"
        + ("" if node.is_up else " down")
        for node in world.honest
    )


def _compute_backoff(node: "Node") -> int:
    """Return the factor that R8 puts on Delta in the node's view."""
    backoff, view = 1, node.view - 1
    while backoff < MAX_BACKOFF and view in node.book.nullifications:
        backoff, view = 2 * backoff, view - 1
    return backoff


def _count_bad_leaders(world: "World") -> int:
    """Return how many views from the highest one on may pass without a block."""
    node = max(world.honest, key=lambda node: (node.epoch.epoch, node.view))
    epoch, bad = node.epoch, 0
    able = _list_able_keys(world)
    for view in range(node.view, node.view + MAX_LOOK_AHEAD):
        leader = compute_leader(epoch.seed, view, epoch.validators)
        if epoch.validators.validators[leader].public_key not in able:
            bad += 1
        elif view > node.view:
            # The current view may be spoilt already; the next honest one is not.
            return bad
    return bad


def _list_able_keys(world: "World") -> set[bytes]:
    """Return the keys in honest hands that may sign."""
    return {
        node.signer.public_key
        for node in world.honest
        if node.signer is not None and node.mind.mute is None
    }

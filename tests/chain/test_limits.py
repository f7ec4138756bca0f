"""What a block's chunks may hold, alone and together."""

import msgspec
import pytest
from chain_world import ALICE, BOB, World, build_genesis
from hypothesis import given
from hypothesis import strategies as st

from chain.records.transfer import Transfer
from chain.tree.limits import (
    compute_block_limits,
    compute_layer_limits,
    compute_producer_limits,
    compute_root_limits,
    compute_total_limits,
)
from genesis.presets import DEVNET_PARAMS
from genesis.state import build_chain_spec
from genesis.validation import MIN_BLOCK_BYTES
from p2pchain.sim.chains.committee import hand_bodies
from shards.layout import MAX_SHARDS
from shards.messages import MAX_PRODUCED_BYTES, MAX_WITNESS_BYTES

replace = msgspec.structs.replace
PARAMS = DEVNET_PARAMS.chain
COUNTS = st.integers(1, MAX_SHARDS)
WORKS = st.integers(1, 10**7)


@given(shards=COUNTS, work=WORKS)
def test_a_validator_never_has_more_than_a_block_of_work(shards, work):
    """The root shard's chunk, and two thirds of what layer shards have together."""
    params = replace(PARAMS, block_work=work)
    total = compute_total_limits(params, shards)
    root = compute_root_limits(params, shards, total.work)
    assert root.work >= work // shards >= 0
    if shards > 2:
        assert 3 * root.work + 2 * total.work <= 3 * work
        assert 2 * total.work <= 3 * compute_layer_limits(params, shards).work
    else:
        assert root.work + total.work == work
    # What layer shards do not take is the root shard's.
    assert compute_root_limits(params, shards, 0) == compute_block_limits(
        params, shards
    )


@given(shards=st.integers(2, MAX_SHARDS), busy=st.integers(1, MAX_SHARDS), work=WORKS)
def test_producers_share_what_they_may_have_together(shards, busy, work):
    busy = min(busy, shards - 1)
    params = replace(PARAMS, block_work=work)
    alone = compute_layer_limits(params, shards)
    total = compute_total_limits(params, shards)
    each = compute_producer_limits(params, shards, busy)
    for name in ("bytes", "work"):
        mine, most = getattr(each, name), getattr(alone, name)
        assert mine <= most
        assert busy * mine <= getattr(total, name)
    if busy == 1:
        assert each == alone


@pytest.mark.parametrize("block_bytes", [MIN_BLOCK_BYTES, PARAMS.block_bytes])
def test_headers_of_all_shards_there_may_be_leave_room(block_bytes):
    params = replace(PARAMS, block_bytes=block_bytes)
    assert compute_block_limits(params, MAX_SHARDS).bytes > 64 * 1024
    # With its witness a full chunk fits into its message.
    framing = 64 * 1024
    most = compute_layer_limits(params, 1).bytes + MAX_WITNESS_BYTES
    assert most + framing < MAX_PRODUCED_BYTES + block_bytes // 8


def fill(spec, shards, count):
    """Return a block on a chain of its own, full of payments within shards."""
    world = World(spec=spec)
    payments = [
        world.sign(ALICE, Transfer(BOB.public_key, shard, 1), shard)
        for shard in shards
        for _ in range(count)
    ]
    return world, world.build(*payments)


def test_two_layer_shards_do_more_than_one_could():
    spec = build_chain_spec(build_genesis(block_work=2400))
    alone = [fill(spec, (0, shard), 30)[1] for shard in (1, 2)]
    _, both = fill(spec, (0, 1, 2), 30)
    work = {c.header.shard: c.header.work for c in both.chunks}
    assert all(block.heads[1].work <= 1600 for block in alone)
    assert 1600 < work[1] + work[2] <= 2400
    assert 3 * work[0] + 2 * (work[1] + work[2]) <= 3 * 2400
    assert work[0] >= 800 - 160
    other = World(spec=spec)
    hand_bodies(both, other.tree)
    other.tree.add(both.block_bytes, both.header.time_ms)

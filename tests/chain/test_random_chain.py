"""
Whole blocks at random: a builder with a mempool, a judge that crashes, forks between.

The builder fills blocks from its pool; the judge adds them in the order in which a
network might bring them, sometimes loses power, and must always end with the same
roots.  Forks live for a while and die.
"""

import random
from contextlib import suppress

import pytest
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, SPEC, World
from channel_helpers import build_claim, build_opening, build_work
from test_register import build_offer

from chain.errors import InvalidTransaction
from chain.mempool import Mempool
from chain.queries.queries import Queries
from chain.records.channel import Close, OpenChannels, RequestClose, Settle, TopUp
from chain.records.transfer import Transfer
from p2pchain.sim.chains.committee import hand_bodies
from primitives.codec import encode

PEOPLE = (ALICE, BOB, CAROL, DAVE)
BLOCKS = 40


def draw_payload(luck: random.Random, queries: Queries, sender):
    """Return a shard and something that `sender` might ask of it."""
    shard = luck.randrange(3)
    other = luck.choice(PEOPLE)
    kind = luck.randrange(6)
    if kind <= 1:
        amount = luck.choice([1, COIN, 30 * COIN, 10**12])
        return shard, Transfer(other.public_key, luck.randrange(3), amount)
    if kind == 2:
        start = luck.randrange(8)
        end = luck.randint(start, 8)
        collateral = luck.choice([COIN, 2 * COIN])
        return 1 + start // 4, build_offer(start, end, collateral=collateral)
    if kind == 3:
        opening = build_opening(other, deposit=luck.choice([COIN, 3 * COIN]))
        return shard, OpenChannels((opening,))
    channels = queries.market.list_channels(
        sender.public_key, limit=50, is_open=True
    ).items
    if not channels:
        return shard, Transfer(other.public_key, shard, 1)
    channel = luck.choice(channels)
    name = channel.channel_id
    if sender.public_key == channel.payer:
        payload = luck.choice([TopUp(name, COIN), RequestClose(name)])
        return channel.shard, payload
    claim = build_claim(name, luck.randrange(20), cumulative=channel.settled, units=20)
    payload = luck.choice(
        [Settle(name, claim, build_work()), Close(name, claim, build_work())]
    )
    return channel.shard, payload


@pytest.mark.parametrize("seed", range(3))
def test_two_nodes_agree_whatever_happens(seed):
    luck = random.Random(seed)
    builder, judge = World(), World()
    pool = Mempool(SPEC, builder.tree.verified)
    queries = Queries(builder.tree)
    view = 0
    included = failed = 0
    for _ in range(BLOCKS):
        for _ in range(luck.randrange(12)):
            sender = luck.choice(PEOPLE)
            shard, payload = draw_payload(luck, queries, sender)
            final = builder.tree.final
            nonce = pool.get_next_nonce(shard, sender.public_key, final)
            last = final.height + 50
            fields = {"nonce": nonce, "valid_until_height": last}
            signed = builder.sign(sender, payload, shard, **fields)
            with suppress(InvalidTransaction):
                pool.add(encode(signed), final)
        view += luck.choice([1, 1, 2])
        parent = builder.tip
        if luck.random() < 0.2 and builder.tree.pending:
            parent = builder.tree.final  # a fork that dies later
        block = builder.build(parent=parent, view=view, picker=pool)
        hand_bodies(block, judge.tree)
        judge.tree.add(block.block_bytes, block.header.time_ms, block.proposal)
        same = judge.tree.get(block.block_hash)
        assert same.view.get_roots() == block.view.get_roots()
        assert same.heads == block.heads
        for result in block.results.values():
            included += len(result.outcomes)
            failed += sum(not outcome.ok for outcome in result.outcomes)
        if luck.random() < 0.6:
            certificate = builder.certify(builder.tip)
            builder.tree.finalize(certificate)
            pool.revalidate(builder.tree.final)
            if luck.random() < 0.5:
                judge.tree.save_pending(certificate.proposal.block_hash)
                judge.reopen()
            judge.tree.finalize(certificate)
            assert judge.tree.final_hash == builder.tree.final_hash
            assert queries.compute_conservation().is_conserved
            if luck.random() < 0.3:
                judge.reopen()
                judge_again(builder, judge)
    assert included > 60
    assert failed > 3
    dump = dict(judge.store.iterate(b"S"))
    assert dump == dict(builder.store.iterate(b"S"))


def judge_again(builder: World, judge: World) -> None:
    """Give the judge the pending blocks that it lost with its memory."""
    for held in builder.tree.pending:
        if not judge.tree.has(held.block_hash):
            hand_bodies(held, judge.tree)
            judge.tree.add(held.block_bytes, held.header.time_ms, held.proposal)

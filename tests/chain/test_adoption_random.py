"""Shards taken on and dropped at any time, in any order, with crashes in between."""

import random

import pytest
from adoption_world import Half, Source, begin, catch_up
from chain_world import COIN
from epoch_world import PEOPLE, EpochWorld
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.checks.conservation import compute_conservation
from chain.checks.database import verify_database
from chain.errors import PastChunk, ShardNotFollowed
from chain.queries.foreign_packets import (
    find_missing_packets,
    has_sent_packets,
    list_sent,
    take_packets,
)
from chain.records.transfer import Transfer
from chain.storage.store import forget_shard
from chain.tree.following import Follow
from primitives import bls
from primitives.kv import MemoryStore
from shards.chunk import compute_chunk_hash

SHARDS = (1, 2)


class Storm:
    """A world with traffic everywhere, and a node that cannot make up its mind."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.world = EpochWorld(is_judged=False, chunk_packets=2)
        self.half = Half(self.world, follow=Follow(frozenset({1})))
        self.sources: list[Source] = []
        self.adoption = None
        for _ in range(2):
            self.step(*(self.pay(0, dst, 50 * COIN) for dst in SHARDS))

    @property
    def tree(self):
        return self.half.tree

    def pay(self, src, dst, amount=COIN):
        """Everybody is paid by the same one, so that all shards have a sender."""
        to = PEOPLE[0 if amount > COIN else self.random.randrange(3)].account
        payload = Transfer(to.public_key, dst, amount)
        return self.world.sign(PEOPLE[0].account, payload, src)

    def step(self, *transactions):
        held = self.world.step(*transactions)
        self.half.take(held)
        self.fetch_packets()
        if held.height % self.world.blocks == 0:
            self.sources = [*self.sources[-1:], Source(self.world)]

    def fetch_packets(self):
        """What the packet exchange does between blocks."""
        for missing in tuple(find_missing_packets(self.tree)):
            name = compute_chunk_hash(missing.header)
            packets = list_sent(self.world.tree, name, missing.dst, missing.first, 256)
            assert take_packets(self.tree, missing, packets)

    # What may happen

    def move(self):
        if self.world.tree.final_height < 4:
            self.step()
            return
        pairs = [(src, dst) for src in SHARDS for dst in (0, 1, 2)]
        chosen = self.random.sample(pairs, self.random.randrange(4))
        self.step(*(self.pay(*pair) for pair in chosen))

    def begin(self):
        """Take a shard's state at some boundary."""
        missing = [s for s in SHARDS if s not in self.tree.followed]
        if not missing or self.adoption is not None:
            return
        shard = self.random.choice(missing)
        epoch = self.tree.epoch.epoch
        sources = [None] if epoch < 2 else []
        sources += self.sources
        self.tree.state.coming = shard
        self.adoption = begin(self.half, shard, self.random.choice(sources))

    def go_on(self):
        """Execute a chunk."""
        if self.adoption is None:
            return
        try:
            chunk = self.tree.find_next_chunk(self.adoption)
        except PastChunk:
            self.stop()
            return
        if chunk is not None:
            self.half.give(chunk)
            body = self.tree.get_body(compute_chunk_hash(chunk.header))
            self.adoption.execute(chunk, body)

    def finish(self):
        """Follow the shard, also while blocks are pending."""
        if self.adoption is None:
            return
        try:
            catch_up(self.half, self.adoption)
        except PastChunk:
            self.stop()
            return
        self.fetch_packets()
        assert has_sent_packets(self.tree, self.adoption.shard)
        held = self.world.build(self.pay(0, 1), self.pay(1, 2), self.pay(2, 1))
        self.half.add(held)
        header = held.block.body.find_header(self.adoption.shard)
        if header is not None:
            name = compute_chunk_hash(header)
            self.tree.keep_body(header, self.world.tree.get_body(name))
        if self.random.random() < 0.5:
            self.tree.save_pending(held.block_hash)
        self.tree.adopt(self.adoption)
        self.stop()
        self.world.finalize(held)
        self.half.take(held)
        if held.height % self.world.blocks == 0:
            self.sources = [*self.sources[-1:], Source(self.world)]

    def stop(self):
        self.adoption = None
        self.tree.state.coming = None

    def drop(self):
        followed = sorted(self.tree.followed - {0})
        if followed:
            shard = self.random.choice(followed)
            self.tree.drop(shard)
            if self.random.random() < 0.7:
                forget_shard(self.half.store, shard)

    def crash(self):
        """The disk is as it was, and everything else is gone."""
        store = MemoryStore()
        store.write(dict(self.half.store.iterate(b"")))
        followed = self.tree.followed
        self.half = Half(self.world, store, Follow(followed))
        self.adoption = None
        assert self.tree.followed == followed

    def check(self):
        tree, full = self.tree, self.world.tree
        assert tree.final_hash == full.final_hash
        assert tree.final.view.get_roots() == full.final.view.get_roots()
        for person in PEOPLE[:3]:
            key = b"a" + person.address
            for shard in SHARDS:
                if shard in tree.followed:
                    expected = full.final.view.get(shard, key)
                    assert tree.final.view.get(shard, key) == expected
                else:
                    with pytest.raises(ShardNotFollowed):
                        tree.final.view.get(shard, key)
        assert compute_conservation(tree).is_conserved
        verdict = verify_database(tree.spec, self.half.store, bls, lambda line: None)
        assert verdict.is_sound, verdict.findings


MOVES = ("move", "move", "move", "begin", "go_on", "finish", "drop", "crash")


def play(seed, moves):
    storm = Storm(seed)
    for move in moves:
        getattr(storm, move)()
    storm.check()
    storm.stop()
    for shard in sorted(set(SHARDS) - storm.tree.followed):
        source = None if storm.tree.epoch.epoch < 2 else storm.sources[-1]
        storm.tree.state.coming = shard
        storm.adoption = begin(storm.half, shard, source)
        storm.finish()
    assert storm.tree.followed == {0, 1, 2}
    storm.check()
    storm.move()
    storm.check()
    assert compute_conservation(storm.tree) == compute_conservation(storm.world.tree)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(MOVES), max_size=24))
def test_whatever_is_followed_is_right(seed, moves):
    play(seed, moves)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(MOVES), max_size=60))
def test_whatever_is_followed_is_right_for_long(seed, moves):
    play(seed, moves)

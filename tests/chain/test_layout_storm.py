"""Load, forks and restarts while shards are split, come and go, at random."""

import random
from contextlib import suppress

import pytest
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, MODEL, STAKERS
from channel_helpers import build_claim, build_opening, build_work
from msgspec.structs import replace
from reshard_world import EPOCH, OTHER_MODEL, ReshardWorld, build_spec
from test_register import build_offer

from chain.errors import InvalidTransaction
from chain.mempool import Mempool
from chain.records.channel import Close, OpenChannels, RequestClose, Settle
from chain.records.model import compute_model_id
from chain.records.proposal import AddModel, RetireModel, SplitShard
from chain.records.resharding import Reshard, ReshardVote
from chain.records.transfer import Transfer
from p2pchain.sim.chains.committee import hand_bodies
from primitives.codec import encode
from primitives.kv import MemoryStore

PEOPLE = (ALICE, BOB, CAROL, DAVE)
EPOCHS = 28
BACKLOG = 20


def build_model(number: int):
    roots = bytes([number]) * 32, bytes([number + 100]) * 32
    return replace(
        OTHER_MODEL,
        model_id=compute_model_id(*roots),
        name=f"model {number}",
        layers=2 + number % 5,
        weights_root=roots[0],
        tokenizer_hash=roots[1],
    )


MODELS = {m.model_id: m for m in (MODEL, *map(build_model, range(10, 20)))}


class Storm:
    """A builder with a mempool, a judge that restarts, and luck."""

    def __init__(self, seed: int):
        self.luck = random.Random(seed)
        spec = build_spec(backlog_limit=BACKLOG, grace_blocks=EPOCH)
        self.builder = ReshardWorld(spec=spec)
        self.judge = ReshardWorld(spec=spec, store=MemoryStore())
        self.pool = Mempool(spec, self.builder.tree.verified)
        self.codes: set[str] = set()
        self.kinds: set[str] = set()
        self.included = 0

    def offer(self, sender, shard, payload) -> None:
        final = self.builder.tree.final
        nonce = self.pool.get_next_nonce(shard, sender.public_key, final)
        fields = {"nonce": nonce, "valid_until_height": final.height + 30}
        signed = self.builder.sign(sender, payload, shard, **fields)
        try:
            self.pool.add(encode(signed), final)
        except InvalidTransaction as error:
            self.codes.add(error.code)

    def add_load(self) -> None:
        for _ in range(self.luck.randrange(8)):
            sender = self.luck.choice(PEOPLE)
            self.offer(sender, *self.draw(sender))

    def draw(self, sender):
        luck, world = self.luck, self.builder
        shard, other = luck.choice(world.ids), luck.choice(PEOPLE)
        kind = luck.randrange(6)
        if kind == 0 and world.layout.shards:
            spec = luck.choice(world.layout.shards)
            start = luck.randrange(spec.start, spec.end)
            layers = MODELS[spec.model_id].layers
            end = luck.randint(start + 1, layers)
            offer = build_offer(start, end, model_id=spec.model_id)
            return spec.shard_id, offer
        if kind == 1:
            opening = build_opening(other, deposit=COIN // 2)
            return shard, OpenChannels((opening,))
        if kind == 2:
            address = sender.public_key
            page = world.queries.market.list_channels(address, limit=20, is_open=True)
            if page.items:
                return self.draw_about(sender, luck.choice(page.items))
        amount = luck.choice([1, COIN, 2 * COIN, 5 * COIN])
        return shard, Transfer(other.public_key, luck.choice(world.ids), amount)

    def draw_about(self, sender, channel):
        name = channel.channel_id
        if sender.public_key == channel.payer:
            return channel.shard, RequestClose(name)
        claim = build_claim(
            name,
            self.luck.randrange(20),
            cumulative=channel.settled,
            units=20,
            chain_id=self.builder.spec.chain_id,
        )
        kind = self.luck.choice([Settle, Close])
        return channel.shard, kind(name, claim, build_work())

    def propose(self) -> None:
        """Ask for a change, good or bad, and let most vote for most."""
        luck, world = self.luck, self.builder
        kind = luck.randrange(5)
        if kind == 0:
            change = RetireModel(luck.choice(list(MODELS)))
        elif kind == 1:
            model = luck.choice(list(MODELS.values()))
            change = AddModel(model, luck.randint(1, 3))
        else:
            change = SplitShard(luck.choice(world.ids), luck.randrange(8))
        self.offer(luck.choice(STAKERS), 0, Reshard(change))

    def vote(self) -> None:
        for number in self.builder.docket.open:
            for staker in STAKERS:
                if self.luck.random() < 0.6:
                    self.offer(staker, 0, ReshardVote(number))

    def step(self) -> None:
        """Build a block on the tip or a rival of it; make one final."""
        builder, judge, luck = self.builder, self.judge, self.luck
        parent = builder.tip
        if parent.is_epoch_root and builder.tree.pending:
            self.finalize()
            parent = builder.tip
        fork = luck.random() < 0.15 and not parent.is_epoch_root
        if fork and builder.tree.pending:
            parent = builder.tree.final
        view = parent.child_parent_view + luck.choice([1, 1, 2, 3])
        views = [h.header.view for h in builder.tree.pending]
        block = builder.build(
            parent=parent, view=max([view, *(v + 1 for v in views)]), picker=self.pool
        )
        builder.check_witnesses(parent, block)
        hand_bodies(block, judge.tree)
        judge.tree.add(block.block_bytes, block.header.time_ms, block.proposal)
        same = judge.tree.get(block.block_hash)
        assert same.view.get_roots() == block.view.get_roots()
        assert (same.heads, same.child_epoch) == (block.heads, block.child_epoch)
        self.kinds |= {event.kind for event in block.events}
        for result in block.results.values():
            self.included += len(result.outcomes)
            self.codes |= {outcome.code for outcome in result.outcomes}
        if luck.random() < 0.7:
            self.finalize()

    def finalize(self) -> None:
        builder, judge = self.builder, self.judge
        certificate = builder.certify(builder.tip)
        builder.tree.finalize(certificate)
        builder.check_books()
        self.pool.revalidate(builder.tree.final)
        if self.luck.random() < 0.3:
            judge.tree.save_pending(certificate.proposal.block_hash)
            judge.reopen()
        judge.tree.finalize(certificate)
        judge.check_books()
        assert judge.tree.final_hash == builder.tree.final_hash
        if self.luck.random() < 0.2:
            judge.reopen()
            for held in builder.tree.pending:
                if not judge.tree.has(held.block_hash):
                    time_ms = held.header.time_ms
                    hand_bodies(held, judge.tree)
                    judge.tree.add(held.block_bytes, time_ms, held.proposal)


@pytest.mark.parametrize("seed", range(3))
def test_a_storm(seed):
    storm = Storm(seed)
    world = storm.builder
    layouts = set()
    while world.epoch < EPOCHS:
        storm.add_load()
        if storm.luck.random() < 0.4:
            storm.propose()
        storm.vote()
        storm.step()
        layouts.add(world.ids)
    assert storm.included > 150
    assert len(layouts) > 5
    assert "reshard_adopted" in storm.kinds
    retire_all(storm)
    # Everything that was anywhere is in the root shard now.
    total = sum(world.balance(person) for person in (*PEOPLE, *STAKERS))
    books = world.queries.compute_conservation()
    assert books.away == books.collateral == 0
    assert total + books.stake + books.channels + books.burned == books.created
    assert dict(storm.judge.store.iterate(b"S")) == dict(world.store.iterate(b"S"))


def retire_all(storm: Storm) -> None:
    """Retire every model, and go on until only the root shard is left."""
    world = storm.builder
    for _ in range(60 * EPOCH):
        for number, spec in enumerate(world.layout.shards):
            if not spec.is_retiring:
                storm.offer(STAKERS[number % 4], 0, Reshard(RetireModel(spec.model_id)))
                break
        for number in world.docket.open:
            for staker in STAKERS:
                storm.offer(staker, 0, ReshardVote(number))
        storm.step()
        with suppress(ValueError):
            storm.finalize()
        if world.ids == (0,):
            return
    raise AssertionError(world.layout)

"""Certified chunks that are wrong, in blocks: who executes them denounces them."""

import pytest
import trio
from fraud_world import SHARD, FraudWorld, replace
from test_fraud_desk import Wire

from chain.errors import MissingFraudProof
from chain.execution.chunk import ChunkBody
from chain.queries.queries import Queries
from chain.records.pieces import decode_piece
from chain.tree.following import Follow
from chain.tree.opening import open_tree
from network.topics import Topic
from p2pchain.node.chain.evidence_desk import EvidenceDesk
from p2pchain.sim.chains.people import NothingWaits
from primitives import bls
from primitives.codec import encode
from primitives.kv import MemoryStore
from primitives.merkle import compute_list_root
from shards.certificate import CertifiedChunk


class StrayWorld(FraudWorld):
    """The judge follows everything; whoever leads does not follow the shard.

    So the leader takes a certified chunk at its word, and the judge does not.
    """

    def __init__(self):
        super().__init__()
        self.wire = Wire()
        self.desk = EvidenceDesk(self.judge.tree, self.wire)
        store = MemoryStore()
        store.write(dict(self.store._values))
        follow = Follow(frozenset({2}))
        self.full = self.tree
        self.store = store
        self.tree = open_tree(self.spec, store, bls, follow=follow)

    def spoil(self, *transactions, **changes):
        """Return a chunk with another header, and its certificate by the committee.

        Transactions take the place of those that were executed.
        """
        self.tree, partial = self.full, self.tree
        produced = self.produce(parent=self.full.final)
        self.tree = partial
        if transactions:
            produced = replace(produced, transactions=transactions)
            changes["tx_root"] = compute_list_root(transactions)
            changes["tx_count"] = len(transactions)
        header = replace(produced.header, **changes)
        return self.certify_chunk(replace(produced, header=header))

    def include(self, fraud):
        """Make a block with a chunk final, at the leader and at the judge."""
        body = ChunkBody(fraud.packets, fraud.transactions)
        self.judge.tree.keep_body(fraud.header, body)
        held = self.lead(chunks=[CertifiedChunk(fraud.header, fraud.certificate)])
        assert [header.shard for header in held.block.body.headers] == [SHARD]
        return held

    def lead(self, chunks=(), evidence=()):
        parent = self.tree.final
        view = parent.child_parent_view + 1
        self.now_ms += 1000
        held = self.tree.build(
            parent_hash=parent.block_hash,
            view=view,
            proposer=self.leader(view),
            reveal=self.reveal(view),
            attendance=self.attend(parent),
            time_ms=self.now_ms,
            picker=NothingWaits(),
            chunks=chunks,
            evidence=evidence,
        )
        self.judge.tree.add(held.block_bytes, held.header.time_ms, held.proposal)
        certificate = self.certify(held)
        self.tree.finalize(certificate)
        self.judge.tree.finalize(certificate)
        self.desk.on_final()
        return held

    @property
    def told(self):
        return [data for topic, data in self.wire.published if topic is Topic.EVIDENCE]


def build_lie(world, lie):
    """Return a wrong chunk by what is wrong with it."""
    match lie:
        case "post_root":
            return world.spoil(post_root=b"\1" * 32)
        case "fees":
            return world.spoil(fees=7)
        case "transaction 0":
            return world.spoil(b"junk")
    if lie == "bytes":
        return world.spoil(bytes=1)
    return world.spoil(encode(world.pay(SHARD, nonce=99)))


@pytest.mark.parametrize(
    "lie", ["post_root", "fees", "bytes", "wrong_nonce", "transaction 0"]
)
def test_a_follower_denounces_what_a_block_holds(lie):
    async def scenario():
        world = StrayWorld()
        fraud = build_lie(world, lie)
        held = world.include(fraud)
        queries = Queries(world.judge.tree)
        # From the state before the chunk it made a proof that its own court believes.
        (notice,) = world.told
        (piece,) = world.desk.pick(held.block_hash)
        assert piece == notice
        proof = world.judge.tree.frauds.get(decode_piece(notice).proof_hash)
        assert proof.header == fraud.header
        assert proof.producer_signature is None
        # Others, who have never followed the shard, judge it by the proof alone.
        with pytest.raises(MissingFraudProof):
            world.tree.open_final_court().judge(
                decode_piece(notice), world.tree.get_validators(fraud.header.epoch)
            )
        world.tree.frauds.offer(encode(proof))
        world.lead(evidence=(notice,))
        assert [halt.shard for halt in world.halts()] == [SHARD]
        # Why is remembered, also after a restart, and said.
        (gap,) = queries.list_gaps()
        assert (gap.shard, gap.first, gap.last) == (SHARD, held.height, None)
        assert lie in gap.reason
        world.judge.reopen()
        assert Queries(world.judge.tree).list_gaps() == (gap,)
        assert not list(world.judge.tree.strays.take())

    trio.run(scenario)


def test_a_leader_that_follows_leaves_it_out_and_denounces_it():
    async def scenario():
        world = StrayWorld()
        fraud = world.spoil(post_root=b"\1" * 32)
        world.judge.tree.keep_body(
            fraud.header, ChunkBody(fraud.packets, fraud.transactions)
        )
        # The leader is the judge now.
        world.tree = world.judge.tree
        held = world.lead(chunks=[CertifiedChunk(fraud.header, fraud.certificate)])
        assert held.block.body.headers == ()
        assert world.judge.tree.followed == {0, 1, 2}
        assert len(world.told) == 1
        assert Queries(world.judge.tree).list_gaps() == ()

    trio.run(scenario)

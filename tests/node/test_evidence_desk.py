"""Evidence in one node: reported, gossiped, repeated, and put into the next block."""

import msgspec
import pytest
from chain_evidence import build_court, make_certificates, make_votes
from chain_world import SPEC, World
from evidence_court import make_proposal, make_vote_pair
from node_world import Net, build_key, run

from chain.errors import UselessEvidence
from chain.ledger.stake import StakeStatus
from consensus.errors import InvalidEvidence
from consensus.evidence import MAX_EVIDENCE_BYTES, build_evidence
from consensus.messages import Kind
from network.topics import TOPICS, Topic, Verdict
from p2pchain.node.chain.evidence_desk import REPEAT_BLOCKS
from p2pchain.node.chain.service import ChainService
from primitives.codec import encode
from primitives.kv import MemoryStore


class Bench:
    """One service, and a leader who builds its blocks as consensus would ask."""

    def __init__(self) -> None:
        self.world = World(SPEC)
        self.store = MemoryStore()
        self.restart()
        self.court = build_court(SPEC)
        self.pair = make_vote_pair(self.court, 2, 0)
        self.data = encode(self.pair)

    def restart(self):
        """A new process over what the old one wrote."""
        self.net = Net({}, build_key("service"))
        self.chain = ChainService(SPEC, self.store, self.net)
        self.world.tree = self.chain.tree

    def make_block(self):
        """A block of ours, with whatever waits for one."""
        world, parent = self.world, self.world.tip
        view = parent.child_parent_view + 1
        world.now_ms += 1000
        block_hash, _, _ = self.chain.build_block(
            epoch=world.tree.epoch.epoch,
            view=view,
            parent_hash=parent.block_hash,
            parent_view=parent.child_parent_view,
            proposer=world.leader(view),
            reveal=world.reveal(view),
            attendance=world.attend(parent),
            time_ms=world.now_ms,
        )
        held = world.tree.get(block_hash)
        self.chain.finalize(world.certify(held))
        return held

    def make_foreign_block(self, *evidence):
        """A block of a leader who picks for itself."""
        held = self.world.build(evidence=evidence)
        self.chain.finalize(self.world.certify(held))

    async def gossip(self, data: bytes) -> Verdict:
        return await self.net.deliver(Topic.EVIDENCE, data)

    @property
    def told(self) -> list[bytes]:
        return [data for topic, data in self.net.published if topic is Topic.EVIDENCE]

    def is_convicted(self, index: int) -> bool:
        key = self.court.keys[index].public_key
        stake = self.chain.queries.stakes.find_stake(key)
        return stake.status == StakeStatus.TOMBSTONED


def test_a_conflict_becomes_evidence_in_our_next_block() -> None:
    bench = Bench()
    bench.chain.report(bench.pair.second, bench.pair.first)
    assert bench.told == [bench.data]
    held = bench.make_block()
    assert held.block.body.evidence == (bench.data,)
    assert bench.is_convicted(2)
    assert len(bench.chain.evidence.pool) == 0
    assert bench.make_block().block.body.evidence == ()


def test_certificates_are_reported_too() -> None:
    bench = Bench()
    first = bench.court.certify(Kind.FINALIZATION, make_proposal(epoch=0), range(3))
    second = bench.court.certify(Kind.NULLIFICATION, (0, 7), range(1, 4))
    bench.chain.report(first, second)
    bench.make_block()
    assert [bench.is_convicted(index) for index in range(4)] == [
        False,
        True,
        True,
        False,
    ]


def test_a_conflict_is_reported_once() -> None:
    bench = Bench()
    for _ in range(5):
        bench.chain.report(bench.pair.first, bench.pair.second)
    assert bench.told == [bench.data]
    bench.make_block()
    bench.chain.report(bench.pair.first, bench.pair.second)
    assert bench.told == [bench.data]


def test_a_report_that_is_no_evidence_harms_nobody(caplog) -> None:
    bench = Bench()
    notarize = bench.court.vote(Kind.NOTARIZATION, make_proposal(epoch=0), 2)
    nullify = bench.court.vote(Kind.NULLIFICATION, (0, 7), 2)
    bench.chain.report(notarize, nullify)
    forged = msgspec.structs.replace(bench.pair.first, signature=bytes(96))
    bench.chain.report(forged, bench.pair.second)
    assert bench.told == []
    assert "no evidence" in caplog.text
    assert bench.make_block().block.body.evidence == ()


def test_what_waits_outlives_a_restart() -> None:
    bench = Bench()
    bench.chain.report(bench.pair.first, bench.pair.second)
    bench.restart()
    assert [piece.data for piece in bench.chain.evidence.pool.list_pieces()] == [
        bench.data
    ]
    assert bench.make_block().block.body.evidence == (bench.data,)
    assert bench.is_convicted(2)


def test_what_a_block_applied_is_forgotten_on_disk_too() -> None:
    bench = Bench()
    bench.chain.report(bench.pair.first, bench.pair.second)
    assert [key for key, _ in bench.store.iterate(b"D")]
    bench.make_block()
    assert not [key for key, _ in bench.store.iterate(b"D")]
    bench.restart()
    assert len(bench.chain.evidence.pool) == 0


def test_evidence_on_disk_is_judged_again() -> None:
    """Applied, or damaged, while nobody was there to drop it."""
    bench = Bench()
    bench.chain.report(bench.pair.first, bench.pair.second)
    [(key, data)] = bench.store.iterate(b"D")
    bench.make_block()
    bench.store.write({key: data, b"D" + bytes(32): b"rubbish"})
    bench.restart()
    assert len(bench.chain.evidence.pool) == 0
    assert not [key for key, _ in bench.store.iterate(b"D")]
    assert bench.make_block().block.body.evidence == ()


def test_gossip_is_passed_on_when_it_convicts_somebody_new() -> None:
    async def test() -> None:
        bench = Bench()
        assert await bench.gossip(bench.data) is Verdict.ACCEPT
        # The network passes it on; we say nothing of our own.
        assert bench.told == []
        assert await bench.gossip(bench.data) is Verdict.IGNORE
        again = make_certificates(SPEC, (0, 1, 2))
        assert await bench.gossip(again) is Verdict.ACCEPT
        bench.make_block()
        assert await bench.gossip(bench.data) is Verdict.IGNORE

    run(test)


def test_gossip_that_costs_the_peer() -> None:
    async def test() -> None:
        bench = Bench()
        pair = bench.pair
        forged = msgspec.structs.replace(pair.first, signature=pair.second.signature)
        turned = type(pair)(pair.second, pair.first)
        for bad in (
            b"",
            b"noise",
            bench.data + b"\0",
            encode(turned),
            encode(build_evidence(forged, pair.second)),
            bytes(MAX_EVIDENCE_BYTES + 1),
        ):
            assert await bench.gossip(bad) is Verdict.REJECT
        assert len(bench.chain.evidence.pool) == 0

    run(test)


@pytest.mark.parametrize("epoch", [2, 7, 2**32 - 1])
def test_gossip_of_epochs_far_ahead_costs_nothing(epoch: int) -> None:
    async def test() -> None:
        bench = Bench()
        assert await bench.gossip(make_votes(SPEC, 1, epoch)) is Verdict.IGNORE

    run(test)


def test_what_waits_is_told_again() -> None:
    bench = Bench()
    bench.chain.evidence.submit(bench.data)
    for _ in range(2 * REPEAT_BLOCKS):
        bench.make_foreign_block()
    assert bench.told == [bench.data] * 3
    bench.make_foreign_block(bench.data)
    for _ in range(2 * REPEAT_BLOCKS):
        bench.make_foreign_block()
    assert bench.told == [bench.data] * 3
    assert bench.is_convicted(2)


def test_a_leader_looks_at_the_block_it_builds_on() -> None:
    """Applied in a pending block, it waits on, but not for a child of that block."""
    bench = Bench()
    bench.chain.evidence.submit(bench.data)
    pending = bench.world.build(evidence=(bench.data,))
    desk = bench.chain.evidence
    assert desk.pick(pending.block_hash) == ()
    assert desk.pick(bench.chain.final_hash) == (bench.data,)
    assert len(desk.pool) == 1


def test_submitting_says_what_is_wrong() -> None:
    bench = Bench()
    verdict = bench.chain.evidence.submit(bench.data)
    assert verdict.guilty == (bench.court.keys[2].public_key,)
    with pytest.raises(UselessEvidence):
        bench.chain.evidence.submit(bench.data)
    with pytest.raises(InvalidEvidence):
        bench.chain.evidence.submit(b"noise")
    assert bench.told == [bench.data]


def test_all_evidence_fits_the_topic() -> None:
    assert TOPICS[Topic.EVIDENCE].max_bytes >= MAX_EVIDENCE_BYTES

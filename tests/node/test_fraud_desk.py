"""Notices of frauds at one desk: what it fetches, keeps, tries again and punishes."""

import pytest
import trio
import trio.testing
from fraud_world import FraudWorld, replace
from node_world import Net, build_key

from chain.errors import MissingFraudProof, UselessEvidence
from network.errors import PeerUnreachable
from network.faults import Fault
from network.topics import Topic, Verdict
from p2pchain.node.chain.evidence_desk import MAX_EARLY, EvidenceDesk
from p2pchain.node.chain.proof_fetcher import MAX_FETCHES, PROOF
from primitives.codec import encode
from primitives.errors import DecodeError, MissingError
from shards.fraud import build_produced, compute_proof_hash

PEER, OTHER = b"p" * 32, b"q" * 32


class Peer:
    """Somebody connected, who answers what a test says."""

    def __init__(self, peer_id):
        self.peer_id = peer_id
        self.rtt_ms = 1.0


class Wire(Net):
    """A network that answers requests for proofs."""

    def __init__(self):
        super().__init__({}, build_key("desk"))
        self.answers = {}
        self.asked = []

    def peers(self):
        return [Peer(peer_id) for peer_id in self.answers]

    async def request(self, peer_id, protocol, payload, **params):
        await trio.lowlevel.checkpoint()
        assert protocol == PROOF
        self.asked.append(peer_id)
        answer = self.answers[peer_id]
        if answer is None:
            raise PeerUnreachable(peer_id, "no answer")
        return answer


class Bench:
    """A desk over the second node of a world, which hears of what the first one saw."""

    def __init__(self):
        self.world = FraudWorld()
        self.wire = Wire()
        self.desk = EvidenceDesk(self.world.judge.tree, self.wire)

    async def hear(self, fraud, peer_id=PEER):
        """Get a notice by gossip, and let whatever it starts come to an end."""
        notice = encode(self.world.notice(fraud))
        verdict = await self.wire.deliver(Topic.EVIDENCE, notice, peer_id)
        await trio.testing.wait_all_tasks_blocked()
        return verdict

    @property
    def told(self):
        return [data for topic, data in self.wire.published if topic is Topic.EVIDENCE]


def play(scenario):
    """Run a scenario beside the desk's fetcher."""

    async def main():
        bench = Bench()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.desk.proofs.run)
            await trio.testing.wait_all_tasks_blocked()
            await scenario(bench)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_notice_is_passed_on_once_its_proof_is_here():
    async def scenario(bench):
        fraud = bench.world.make_fraud()
        bench.wire.answers = {OTHER: None, PEER: encode(fraud)}
        assert await bench.hear(fraud) is Verdict.IGNORE
        assert bench.wire.asked == [PEER]
        assert bench.told == [encode(bench.world.notice(fraud))]
        assert len(bench.desk.pool) == 1
        assert not bench.wire.faults
        # Now it is known, and serves whoever asks.
        served = await bench.desk.proofs._on_request(
            OTHER, bench.world.notice(fraud).proof_hash
        )
        assert served == encode(fraud)
        assert await bench.hear(fraud) is Verdict.IGNORE
        assert bench.wire.asked == [PEER]

    play(scenario)


def test_a_false_fraud_costs_who_told_it():
    async def scenario(bench):
        good = bench.world.certify_chunk(bench.world.produce())
        bench.wire.answers = {PEER: encode(good)}
        await bench.hear(good)
        assert bench.wire.faults == [(PEER, Fault.BAD_MESSAGE)]
        assert not bench.told
        assert len(bench.desk.pool) == 0

    play(scenario)


def test_junk_that_could_only_be_of_no_use_costs_who_sent_it():
    """Without a validator's key nobody makes others fetch for nothing."""

    async def scenario(bench):
        fraud = bench.world.make_fraud()
        for changes in ({"anchor": b"?" * 32}, {"seq": 99}):
            junk = replace(fraud, header=replace(fraud.header, **changes))
            bench.wire.answers = {PEER: encode(junk)}
            await bench.hear(junk)
        assert bench.wire.faults == [(PEER, Fault.BAD_MESSAGE)] * 2
        assert not bench.desk._early

    play(scenario)


def test_other_bytes_than_those_that_were_named_cost_who_sent_them():
    async def scenario(bench):
        produced = bench.world.produce()
        fraud = bench.world.make_fraud(produced)
        other = bench.world.make_fraud(produced, post_root=b"\2" * 32)
        bench.wire.answers = {PEER: encode(other), OTHER: encode(fraud)}
        await bench.hear(fraud)
        assert bench.wire.asked == [PEER, OTHER]
        assert bench.wire.faults == [(PEER, Fault.BAD_MESSAGE)]
        assert len(bench.desk.pool) == 1

    play(scenario)


def test_nobody_has_the_proof():
    async def scenario(bench):
        fraud = bench.world.make_fraud()
        bench.wire.answers = {PEER: None, OTHER: None}
        await bench.hear(fraud)
        assert len(bench.desk.pool) == 0
        assert not bench.wire.faults
        # Heard again, asked again.
        bench.wire.answers = {PEER: encode(fraud)}
        await bench.hear(fraud)
        assert len(bench.desk.pool) == 1

    play(scenario)


def test_named_bytes_that_are_no_proof():
    async def scenario(bench):
        called = []
        bench.wire.answers = {PEER: b"junk"}
        name = compute_proof_hash(b"junk")
        bench.desk.proofs.fetch(name, PEER, lambda: called.append(1))
        await trio.testing.wait_all_tasks_blocked()
        assert not called
        assert not bench.wire.faults

    play(scenario)


def test_at_most_a_few_proofs_at_a_time():
    async def scenario(bench):
        bench.wire.answers = {PEER: None}
        for number in range(2 * MAX_FETCHES):
            bench.desk.proofs.fetch(bytes([number]) * 32, PEER, lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.wire.asked) == MAX_FETCHES

    play(scenario)


@pytest.mark.parametrize(
    ("payload", "error"), [(b"short", DecodeError), (bytes(32), MissingError)]
)
def test_requests_that_cannot_be_answered(payload, error):
    async def scenario(bench):
        with pytest.raises(error):
            await bench.desk.proofs._on_request(PEER, payload)

    play(scenario)


def test_our_own_find_waits_for_its_anchor_to_be_final():
    async def scenario(bench):
        world = bench.world
        left = world.build()
        view = left.header.view + 1
        produced = world.produce(parent=left, view=view)
        fraud = world.make_fraud(produced)
        world.judge.tree.add(left.block_bytes, left.header.time_ms)
        bench.desk.denounce(build_produced(fraud), fraud.certificate)
        assert not bench.told
        world.finalize(left)
        bench.desk.on_final()
        assert bench.told == [encode(world.notice(fraud))]
        # A block with it is valid for whoever has the proof, and then it waits no more.
        (piece,) = bench.desk.pick(left.block_hash)
        world.tree.frauds.offer(encode(fraud))
        world.step(evidence=(piece,))
        bench.desk.on_final()
        assert len(bench.desk.pool) == 0
        assert world.halts()

    play(scenario)


def test_what_comes_too_early_is_bounded():
    async def scenario(bench):
        world = bench.world
        left = world.build()
        produced = world.produce(parent=left, view=left.header.view + 1)
        for number in range(2 * MAX_EARLY):
            fraud = world.make_fraud(produced, post_root=bytes([number]) * 32)
            bench.desk.denounce(build_produced(fraud), fraud.certificate)
        assert len(bench.desk._early) == MAX_EARLY

    play(scenario)


def test_a_good_chunk_that_we_denounce_goes_nowhere():
    async def scenario(bench):
        good = bench.world.certify_chunk(bench.world.produce())
        bench.desk.denounce(build_produced(good), good.certificate)
        assert not bench.told
        assert not bench.desk._early

    play(scenario)


def test_submitting_a_notice_asks_for_its_proof():
    async def scenario(bench):
        fraud = bench.world.make_fraud()
        notice = encode(bench.world.notice(fraud))
        with pytest.raises(MissingFraudProof):
            bench.desk.submit(notice)
        bench.world.judge.tree.frauds.offer(encode(fraud))
        assert bench.desk.submit(notice).guilty
        with pytest.raises(UselessEvidence):
            bench.desk.submit(notice)

    play(scenario)


def test_what_waits_is_there_after_a_restart():
    async def scenario(bench):
        fraud = bench.world.make_fraud()
        bench.desk.denounce(build_produced(fraud), fraud.certificate)
        assert len(bench.desk.pool) == 1
        tree = bench.world.judge.reopen()
        assert len(EvidenceDesk(tree, Wire()).pool) == 1

    play(scenario)

"""
Five validators on loopback, one of which lies: from its votes to its stake.

Real connections, real drivers, real chains.  The liar has a connection and a key but
runs no node: it only says what no honest node says, and to one neighbour only.
"""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from epoch_world import PEOPLE, STAKE, build_epoch_genesis
from evidence_court import Court, make_proposal

from chain.checks.conservation import compute_conservation
from chain.ledger.stake import StakeStatus
from chain.rewarding.evidence import EvidenceJudge
from consensus.evidence import Equivocation
from consensus.messages import Kind
from consensus.params import ConsensusParams
from consensus.participant import ParticipantConfig
from genesis.state import build_chain_spec
from network.network import Network
from network.topics import Topic
from p2pchain.node.chain.service import ChainService
from p2pchain.node.consensus.driver import ConsensusDriver
from p2pchain.node.home.wal_file import create_wal
from primitives import bls
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.kv import MemoryStore

PARAMS = ConsensusParams(interval_ms=60, delta_ms=120, build_ms=100)
SIZE, LIAR = 5, 4
LIMIT_S = 180
"""On a busy machine; a bound, not a measurement."""
"""Only a guard against hanging; a quiet machine needs a second or two."""
ATOMS = STAKE * 10**9

LIES = {
    Equivocation.DOUBLE_NOTARIZE: (Kind.NOTARIZATION, Kind.NOTARIZATION),
    Equivocation.DOUBLE_FINALIZE: (Kind.FINALIZATION, Kind.FINALIZATION),
    Equivocation.NULLIFY_AND_FINALIZE: (Kind.FINALIZATION, Kind.NULLIFICATION),
}


class PeopleCourt(Court):
    def make_key(self, index):
        return PEOPLE[index].key


class Member:
    """An honest validator."""

    def __init__(self, spec, number, folder):
        self.number = number
        self.node_key = SecretKey(bytes([number + 1]) * 32)
        self.network = Network(node_key=self.node_key, chain_id=spec.chain_id)
        self.chain = ChainService(spec, MemoryStore(), self.network)
        self.changed = trio.Event()
        self.chain.listen(self._on_final)
        key = PEOPLE[number].key
        self.wal_path = folder / f"wal{number}"
        create_wal(self.wal_path, key.public_key, spec.chain_id)
        self.driver = ConsensusDriver(
            config=ParticipantConfig(
                chain_id=spec.chain_id, params=PARAMS, scheme=bls, signer=key
            ),
            application=self.chain,
            network=self.network,
            wal_path=self.wal_path,
        )

    def _on_final(self, block):
        self.changed.set()
        self.changed = trio.Event()

    @asynccontextmanager
    async def running(self, endpoints):
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(self.network.run, "127.0.0.1", 0)
            for other in endpoints:
                self.network.add_endpoint(other, persistent=True)
            endpoints.append(endpoint)
            await nursery.start(self.driver.run)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()

    def stake(self, index):
        return self.chain.queries.stakes.get_stake(PEOPLE[index].address)

    async def wait(self, condition):
        """Return once a final block makes the condition true."""
        while not condition(self):
            await self.changed.wait()


class Liar:
    """A connection of a validator's own, and its key."""

    def __init__(self, spec):
        self.court = PeopleCourt(SIZE, chain=spec.chain_id, scheme=bls)
        key = SecretKey(bytes([99]) * 32)
        self.network = Network(node_key=key, chain_id=spec.chain_id)

    async def lie(self, lie, victim):
        """Sign two things in one view, again and again, until it is noticed."""
        while victim.stake(LIAR).status != StakeStatus.TOMBSTONED:
            status = victim.driver.status
            for kind, name in zip(LIES[lie], (b"a", b"b"), strict=True):
                place = status.epoch, status.view + 1
                subject = make_proposal(place[1], name, place[0])
                if kind is Kind.NULLIFICATION:
                    subject = place
                vote = self.court.vote(kind, subject, LIAR)
                peer_id = victim.network.peer_id
                self.network.send(peer_id, Topic.CONSENSUS, encode(vote))
            await trio.sleep(0.05)


@asynccontextmanager
async def open_town(folder):
    genesis = build_epoch_genesis((STAKE,) * SIZE, epoch_blocks=30, epoch_reward=0)
    spec = build_chain_spec(genesis)
    members = [Member(spec, number, folder) for number in range(SIZE - 1)]
    liar, endpoints = Liar(spec), []
    async with AsyncExitStack() as stack:
        for member in members:
            await stack.enter_async_context(member.running(endpoints))
        async with trio.open_nursery() as nursery:
            liar.network.add_endpoint(endpoints[0], persistent=True)
            await nursery.start(liar.network.run, "127.0.0.1", 0)
            yield members, liar
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("lie", list(LIES))
def test_who_votes_twice_is_slashed_by_everybody(lie, tmp_path):
    async def scenario():
        async with open_town(tmp_path) as (members, liar):
            await members[0].wait(lambda member: member.chain.height >= 2)
            await liar.lie(lie, members[0])
            for member in members:
                await member.wait(
                    lambda m: m.stake(LIAR).status == StakeStatus.TOMBSTONED
                )
            # And on it goes without the liar, as before.
            height = max(member.chain.height for member in members)
            for member in members:
                await member.wait(lambda m: m.chain.height >= height + 2)
        check(members, lie)

    async def main():
        with trio.fail_after(LIMIT_S):
            await scenario()

    trio.run(main)


def check(members, lie):
    """Everybody has the same one conviction, and every atom is in the books."""
    found = {member.chain.queries.evidence.list_evidence().items for member in members}
    [[evidence]] = found
    assert evidence.misdeed == lie
    assert evidence.taken == ((PEOPLE[LIAR].address, ATOMS // 20),)
    reporter, reward = evidence.reward
    assert reporter in {PEOPLE[number].address for number in range(LIAR)}
    assert reward == ATOMS // 400
    for member in members:
        tree = member.chain.tree
        assert len(member.chain.evidence.pool) == 0
        assert compute_conservation(tree).is_conserved
        assert member.stake(LIAR).slashed == ATOMS // 20
        for honest in range(LIAR):
            assert member.stake(honest).status == StakeStatus.ACTIVE
        [piece] = tree.store.get_block(evidence.height).body.evidence
        judge = EvidenceJudge(member.chain.chain_id, bls)
        verdict = judge.judge(judge.read(piece, tree.get_validators))
        assert verdict.guilty == (PEOPLE[LIAR].key.public_key,)

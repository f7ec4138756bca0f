"""Four validators on loopback: transactions of layer shards in certified chunks."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from chain_world import ALICE, BLS_KEYS, BOB, COIN, GENESIS, SPEC

from chain.checks.conservation import compute_conservation
from chain.errors import ShardNotFollowed
from chain.records.transaction import Transaction, sign_transaction
from chain.records.transfer import Transfer
from chain.tree.following import FOLLOW_ALL, Follow
from consensus.params import ConsensusParams
from consensus.participant import ParticipantConfig
from network.network import Network
from p2pchain.node.chain.foreign_packets import PacketExchange
from p2pchain.node.chain.service import ChainService
from p2pchain.node.chunks.service import ChunkService
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.driver import ConsensusDriver
from p2pchain.node.home.wal_file import create_wal
from primitives import bls
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.kv import MemoryStore

PARAMS = ConsensusParams(interval_ms=150, delta_ms=120, build_ms=100)
SIZE = len(BLS_KEYS)
LIMIT_S = 180
"""On a busy machine; a bound, not a measurement."""
"""Only a guard against hanging; a quiet machine needs a second or two."""


class Member:
    """A validator with all that agrees on blocks."""

    def __init__(self, number, folder, *, is_producing=True, follow=FOLLOW_ALL):
        self.node_key = SecretKey(bytes([number + 1]) * 32)
        self.network = Network(node_key=self.node_key, chain_id=SPEC.chain_id)
        self.chain = ChainService(SPEC, MemoryStore(), self.network, follow)
        key = BLS_KEYS[number]
        votes, chunks = folder / f"votes{number}", folder / f"chunks{number}"
        create_wal(votes, key.public_key, SPEC.chain_id)
        if is_producing:
            create_wal(chunks, key.public_key, SPEC.chain_id)
        self.bodies = BodyExchange(self.network, self.chain.tree)
        self.packets = PacketExchange(self.network, self.chain)
        self.chunks = ChunkService(
            chain=self.chain,
            bodies=self.bodies,
            network=self.network,
            params=PARAMS,
            scheme=bls,
            signer=key,
            wal_path=chunks,
        )
        self.driver = ConsensusDriver(
            config=ParticipantConfig(
                chain_id=SPEC.chain_id, params=PARAMS, scheme=bls, signer=key
            ),
            application=self.chain,
            network=self.network,
            wal_path=votes,
            on_place=self.chunks.on_place,
            bodies=self.bodies,
        )

    @asynccontextmanager
    async def running(self, endpoints):
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(self.network.run, "127.0.0.1", 0)
            for other in endpoints:
                self.network.add_endpoint(other, persistent=True)
            endpoints.append(endpoint)
            self.endpoint = endpoint
            nursery.start_soon(self.chunks.run)
            nursery.start_soon(self.packets.run)
            await nursery.start(self.driver.run)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()

    def pay(self, nonce, shard, payload):
        return self.chain.submit(
            encode(
                sign_transaction(
                    Transaction(
                        version=1,
                        chain_id=SPEC.chain_id,
                        shard=shard,
                        sender=ALICE.public_key,
                        nonce=nonce,
                        fee_limit=COIN,
                        valid_until_height=1000,
                        payload=payload,
                    ),
                    ALICE,
                )
            )
        )


@asynccontextmanager
async def open_town(folder, silent=(), follows=(FOLLOW_ALL,) * SIZE):
    members = [
        Member(number, folder, is_producing=number not in silent, follow=follow)
        for number, follow in enumerate(follows)
    ]
    endpoints = []
    async with AsyncExitStack() as stack:
        for member in members:
            await stack.enter_async_context(member.running(endpoints))
        yield members


@pytest.mark.parametrize("silent", [(), (0,)])
def test_layer_shards_go_on_by_certified_chunks(tmp_path, silent):
    """Also when one validator lost its log and signs no chunk."""

    async def scenario():
        with trio.fail_after(LIMIT_S):
            async with open_town(tmp_path, silent) as members:
                first, last = members[0], members[-1]
                sent = [
                    first.pay(nonce, shard, Transfer(BOB.public_key, to, COIN))
                    for nonce in range(3)
                    for shard, to in ((1, 1), (2, 2), (1, 2))
                    if (shard, to) != (1, 2)
                ]
                away = first.pay(3, 1, Transfer(BOB.public_key, 2, COIN))
                for tx_id in [*sent, away]:
                    outcome = await first.chain.wait_outcome(tx_id, LIMIT_S)
                    assert outcome.ok
                balance = last.chain.queries.get_account
                while balance(2, BOB.public_key).balance < 104 * COIN:
                    await last.chain.wait_height(last.chain.height + 1)
                assert balance(1, BOB.public_key).balance == 103 * COIN
                assert compute_conservation(last.chain.tree).is_conserved
                height = last.chain.height
                for member in members:
                    await member.chain.wait_height(height)
                    assert not member.chain.mempool.list_waiting(1)

    assert GENESIS.params is not None
    trio.run(scenario)


ONE, TWO = Follow(frozenset({1})), Follow(frozenset({2}))


@pytest.mark.parametrize("follows", [(ONE, ONE, TWO, TWO), (ONE, TWO, FOLLOW_ALL, ONE)])
def test_validators_that_follow_different_shards(tmp_path, follows):
    """All judge all blocks; packets find their way to who fills the next chunk."""

    async def scenario():
        with trio.fail_after(LIMIT_S):
            async with open_town(tmp_path, follows=follows) as members:
                by_shard = {
                    shard: [m for m in members if shard in m.chain.tree.followed]
                    for shard in (1, 2)
                }
                first, second = by_shard[1][0], by_shard[2][0]
                while any(len(m.network.peers()) < SIZE - 1 for m in members):
                    await trio.sleep(0.05)
                # Signed at a node that cannot know the account: passed on.
                members[-1].pay(0, 1, Transfer(BOB.public_key, 1, COIN))
                members[0].pay(0, 2, Transfer(BOB.public_key, 2, COIN))
                away = first.pay(1, 1, Transfer(BOB.public_key, 2, COIN))
                back = second.pay(1, 2, Transfer(BOB.public_key, 0, COIN))
                assert (await first.chain.wait_outcome(away, LIMIT_S)).ok
                assert (await second.chain.wait_outcome(back, LIMIT_S)).ok
                for shard, expected in ((1, 101), (2, 102), (0, 101)):
                    for member in by_shard.get(shard, members):
                        get = member.chain.queries.get_account
                        while get(shard, BOB.public_key).balance < expected * COIN:
                            await member.chain.wait_height(member.chain.height + 1)
                height = max(member.chain.height for member in members)
                for member in members:
                    await member.chain.wait_height(height)
                    tree = member.chain.tree
                    assert compute_conservation(tree).is_conserved
                    for shard in {1, 2} - tree.followed:
                        with pytest.raises(ShardNotFollowed):
                            member.chain.queries.get_account(shard, BOB.public_key)
                    shown = member.chain.queries.list_accounts(BOB.public_key)
                    assert {account.shard for account in shown} == tree.followed

    trio.run(scenario)

"""Four validators on loopback: transactions of layer shards in certified chunks."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from chain_world import ALICE, BLS_KEYS, BOB, COIN, GENESIS, SPEC

from chain.conservation import compute_conservation
from chain.contracts.transfer import Transfer
from chain.transaction import Transaction, sign_transaction
from consensus.params import ConsensusParams
from consensus.participant import ParticipantConfig
from network.network import Network
from p2pchain.node.bodies import BodyExchange
from p2pchain.node.chain_service import ChainService
from p2pchain.node.chunk_service import ChunkService
from p2pchain.node.consensus_driver import ConsensusDriver
from p2pchain.node.wal_file import create_wal
from primitives import bls
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.kv import MemoryStore

PARAMS = ConsensusParams(interval_ms=150, delta_ms=120, build_ms=100)
SIZE = len(BLS_KEYS)
LIMIT_S = 60
"""Only a guard against hanging; a quiet machine needs a second or two."""


class Member:
    """A validator with all that agrees on blocks."""

    def __init__(self, number, folder, *, is_producing=True):
        self.node_key = SecretKey(bytes([number + 1]) * 32)
        self.network = Network(node_key=self.node_key, chain_id=SPEC.chain_id)
        self.chain = ChainService(SPEC, MemoryStore(), self.network)
        key = BLS_KEYS[number]
        votes, chunks = folder / f"votes{number}", folder / f"chunks{number}"
        create_wal(votes, key.public_key, SPEC.chain_id)
        if is_producing:
            create_wal(chunks, key.public_key, SPEC.chain_id)
        self.bodies = BodyExchange(self.network, self.chain.tree)
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
async def open_town(folder, silent=()):
    members = [
        Member(number, folder, is_producing=number not in silent)
        for number in range(SIZE)
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
                for member in members:
                    assert not member.chain.mempool.list_waiting(1)

    assert GENESIS.params is not None
    trio.run(scenario)

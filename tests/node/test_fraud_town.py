"""
Four validators on loopback, some of whose keys sign about chunks what nobody may.

Each key's node is honest; the liar has a connection, all keys, and no node.  What it
says is noticed by those who hear it, and everybody convicts the same.
"""

from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from chain_world import ALICE, BLS_KEYS, BOB, COIN, SPEC, STAKERS, ListPicker
from test_chunk_service import LIMIT_S, open_town

from chain.checks.conservation import compute_conservation
from chain.ledger.halts import read_halts
from chain.ledger.stake import StakeStatus
from chain.records.transaction import Transaction, sign_transaction
from chain.records.transfer import Transfer
from network.network import Network
from network.topics import Topic
from primitives import bls
from primitives.keys import SecretKey
from shards.certificate import (
    CertifiedChunk,
    build_chunk_certificate,
    compute_endorsement_bytes,
    compute_producer_bytes,
)
from shards.chunk import compute_chunk_hash
from shards.evidence import Misconduct
from shards.messages import Certified, Endorsement, encode_message
from shards.slots import Slot

replace = msgspec.structs.replace
SHARD = 1
CHAIN = SPEC.chain_id


class Liar:
    """All keys, a connection to one victim, and no shame."""

    def __init__(self, victim):
        self.victim = victim
        self.network = Network(node_key=SecretKey(bytes([99]) * 32), chain_id=CHAIN)

    def produce(self, rank):
        """Return a good chunk for the next view by who is `rank`-th in its slot."""
        tree = self.victim.chain.tree
        parent = tree.pending[-1] if tree.pending else tree.final
        status = self.victim.driver.status
        if parent.child_epoch.epoch != status.epoch:
            return None
        slot = Slot(status.epoch, SHARD, status.view + 1)
        producer = parent.child_epoch.roles.get_producers(slot)[rank]
        payment = sign_transaction(
            Transaction(
                version=1,
                chain_id=CHAIN,
                shard=SHARD,
                sender=ALICE.public_key,
                nonce=self.victim.chain.get_next_nonce(SHARD, ALICE.public_key),
                fee_limit=COIN,
                valid_until_height=1000,
                payload=Transfer(BOB.public_key, SHARD, COIN),
            ),
            ALICE,
        )
        picker = ListPicker((payment,))
        return tree.chunks.produce_chunk(slot, parent.block_hash, producer, picker)

    def sign(self, produced, **changes):
        """Return a chunk with its producer's signature; its header changed."""
        header = replace(produced.header, **changes)
        slot = Slot(header.epoch, header.shard, header.created_view)
        message = compute_producer_bytes(CHAIN, slot, compute_chunk_hash(header))
        signature = BLS_KEYS[header.producer].sign(message)
        return replace(produced, header=header, signature=signature)

    def endorse(self, produced, signer):
        header = produced.header
        slot = Slot(header.epoch, header.shard, header.created_view)
        chunk_hash = compute_chunk_hash(header)
        message = compute_endorsement_bytes(CHAIN, slot, chunk_hash)
        return Endorsement(slot, chunk_hash, signer, BLS_KEYS[signer].sign(message))

    def get_committee(self, produced):
        header = produced.header
        slot = Slot(header.epoch, header.shard, header.created_view)
        roles = self.victim.chain.tree.final.child_epoch.roles
        return roles.get_committee(slot).members

    def say(self, *messages):
        for message in messages:
            self.network.send(
                self.victim.network.peer_id, Topic.CHUNKS, encode_message(message)
            )

    # Lies

    async def double_produce(self):
        chunk = self.produce(0)
        if chunk is not None:
            self.say(self.sign(chunk), self.sign(chunk, fees=1))

    async def double_endorse(self):
        first, second = self.produce(0), self.produce(1)
        if first is None or second is None:
            return
        chunks = self.sign(first), self.sign(second)
        self.say(*chunks)
        signer = self.get_committee(first)[0]
        self.say(*(self.endorse(chunk, signer) for chunk in chunks))

    async def bad_endorse(self):
        """Two of four endorse a state out of thin air: more than a third."""
        chunk = self.produce(0)
        if chunk is None:
            return
        wrong = self.sign(chunk, post_root=b"\1" * 32)
        members = self.get_committee(wrong)
        index = self.victim.driver.status.index
        if index not in members:
            return
        self.say(wrong)
        await trio.sleep(0.2)
        words = [self.endorse(wrong, m) for m in members if m != index][:2]
        certificate = build_chunk_certificate(
            {word.signer: word.signature for word in words},
            self.victim.chain.tree.epoch.validators,
            bls,
        )
        self.say(Certified(CertifiedChunk(wrong.header, certificate)))


@asynccontextmanager
async def open_liar(victim):
    liar = Liar(victim)
    async with trio.open_nursery() as nursery:
        liar.network.add_endpoint(victim.endpoint, persistent=True)
        await nursery.start(liar.network.run, "127.0.0.1", 0)
        yield liar
        nursery.cancel_scope.cancel()


def convicted(member):
    stakes = member.chain.queries.stakes
    return [
        index
        for index, person in enumerate(STAKERS)
        if stakes.get_stake(person.public_key).status == StakeStatus.TOMBSTONED
    ]


def halted(member):
    view = member.chain.tree.final.view
    return [halt.shard for halt in read_halts(lambda key: view.get(0, key))]


@pytest.mark.parametrize("lie", list(Misconduct))
def test_who_lies_about_chunks_is_slashed_by_everybody(lie, tmp_path):
    async def scenario():
        async with open_town(tmp_path) as members:
            victim = members[0]
            await victim.chain.wait_height(2)
            async with open_liar(victim) as liar:
                while not convicted(victim):
                    await getattr(liar, lie.value)()
                    height = victim.chain.height
                    await victim.chain.wait_height(height + 1)
            height = max(member.chain.height for member in members)
            for member in members:
                while not convicted(member):
                    await member.chain.wait_height(member.chain.height + 1)
                await member.chain.wait_height(height + 2)
            check(members, lie)

    async def main():
        with trio.fail_after(LIMIT_S):
            await scenario()

    trio.run(main)


def check(members, lie):
    """Everybody has the same one conviction, and every atom is in the books."""
    lists = {member.chain.queries.evidence.list_evidence().items for member in members}
    assert len({items[-1] for items in lists}) == 1
    first = next(iter(lists))[-1]
    assert first.misdeed == lie
    if lie is Misconduct.BAD_ENDORSE:
        # Two endorsers, and the producer if it is another one.
        assert len(first.taken) in (2, 3)
    else:
        assert len(first.taken) == 1
    for member in members:
        assert compute_conservation(member.chain.tree).is_conserved
        assert halted(member) == ([SHARD] if lie is Misconduct.BAD_ENDORSE else [])

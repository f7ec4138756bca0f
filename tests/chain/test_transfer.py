"""Transfers within a shard and over packets, and what happens when packets fail."""

import pytest
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, SPEC, build_genesis
from mini_chain import NO_LIMITS, MiniChain
from test_channels import check_refused

from chain.contracts.credit import Credit
from chain.execution.chunk_run import ChunkFull, ChunkLimits
from chain.records.transaction import Transaction, sign_transaction
from chain.records.transfer import Transfer
from genesis.state import build_chain_spec
from primitives.codec import encode
from shards.errors import InvalidPacket
from shards.packet import Packet, PacketKind, build_packet_proofs


@pytest.fixture
def chain():
    return MiniChain()


def test_a_transfer_moves_the_amount_and_burns_the_fee(chain):
    outcome = chain.call(ALICE, Transfer(DAVE.public_key, 1, COIN))
    assert outcome.ok
    assert chain.balance(1, DAVE) == COIN
    assert chain.balance(1, ALICE) == 99 * COIN - outcome.fee
    assert chain.totals(1).burned == outcome.fee
    assert chain.compute_held() == chain.supply


def test_a_transfer_to_oneself_costs_the_fee_only(chain):
    outcome = chain.call(ALICE, Transfer(ALICE.public_key, 1, 50 * COIN))
    assert chain.balance(1, ALICE) == 100 * COIN - outcome.fee


@pytest.mark.parametrize(
    ("amount", "shard", "code"),
    [
        (0, 1, "zero_amount"),
        (1, 3, "unknown_shard"),
        (100 * COIN, 1, "insufficient_funds"),
        (2**63 - 1, 2, "insufficient_funds"),
    ],
)
def test_a_transfer_refuses(chain, amount, shard, code):
    check_refused(chain, ALICE, Transfer(BOB.public_key, shard, amount), code)


def test_overdraft_says_what_is_there(chain):
    payload = Transfer(BOB.public_key, 1, 200 * COIN)
    outcome = check_refused(chain, ALICE, payload, "insufficient_funds")
    assert str(200 * COIN) in outcome.message


def test_a_transfer_to_another_shard_travels_as_a_packet(chain):
    assert chain.call(ALICE, Transfer(DAVE.public_key, 2, COIN), 0).ok
    assert chain.balance(2, DAVE) == 0
    assert chain.compute_held() == chain.supply
    chain.step()
    assert chain.balance(2, DAVE) == COIN
    assert chain.consumed(0, 2) == 1
    assert chain.compute_held() == chain.supply


def test_packets_are_consumed_in_order_and_once(chain):
    for amount in (1, 2):
        assert chain.call(ALICE, Transfer(DAVE.public_key, 2, amount), 0).ok
    first, second = chain.inbox[2]
    run = chain.start(2)
    with pytest.raises(InvalidPacket, match="packet 1 from shard 0, 0 is next"):
        run.consume(second)
    run.consume(first)
    with pytest.raises(InvalidPacket, match="packet 0 from shard 0, 1 is next"):
        run.consume(first)
    run.consume(second)
    with pytest.raises(InvalidPacket, match="for shard 2"):
        chain.start(1).consume(first)


def test_a_backlog_refuses_the_transactions_that_add_to_it():
    chain = MiniChain(build_chain_spec(build_genesis(backlog_limit=2)))
    for _ in range(2):
        assert chain.call(ALICE, Transfer(DAVE.public_key, 2, 1), 0).ok
    payload = Transfer(DAVE.public_key, 2, 1)
    check_refused(chain, ALICE, payload, "congested", shard=0)
    assert chain.call(ALICE, Transfer(DAVE.public_key, 1, 1), 0).ok
    chain.step()
    assert chain.call(ALICE, payload, 0).ok


def test_a_credit_that_cannot_be_made_bounces_as_a_plain_credit(chain):
    """The supply fits 63 bits, so only a made-up packet overflows a balance."""
    before = chain.balance(0, ALICE)
    payload = encode(Credit(BOB.public_key, ALICE.public_key))
    chain.inject(Packet(0, 2, 0, PacketKind.CREDIT, 2**63 - 1, payload))
    chain.step()
    assert chain.balance(2, BOB) == 100 * COIN
    (bounce,) = chain.inbox[0]
    assert (bounce.packet.kind, bounce.packet.amount) == (2, 2**63 - 1)
    small = Packet(2, 0, 0, PacketKind.BOUNCE, 7, bounce.packet.payload)
    chain.inbox[0] = list(build_packet_proofs([small], 1))
    chain.step()
    assert chain.balance(0, ALICE) == before + 7


def test_bounces_ignore_the_backlog():
    chain = MiniChain(build_chain_spec(build_genesis(backlog_limit=1)))
    assert chain.call(ALICE, Transfer(DAVE.public_key, 0, 1), 2).ok
    payload = encode(Credit(BOB.public_key, ALICE.public_key))
    chain.inbox[0] = []
    chain.inject(Packet(0, 2, 0, PacketKind.CREDIT, 2**63 - 1, payload))
    chain.step()
    assert [proof.packet.kind for proof in chain.inbox[0]] == [PacketKind.BOUNCE]


@pytest.mark.parametrize("kind", [PacketKind.CREDIT, PacketKind.BOUNCE, 99])
def test_money_whose_owner_cannot_be_read_counts_as_burned(chain, kind):
    chain.inject(Packet(0, 2, 0, kind, 5, b"nonsense"))
    chain.step()
    assert chain.totals(2).burned == 5
    assert chain.consumed(0, 2) == 1


def test_limits_of_a_chunk(chain):
    def sign(nonce):
        payload = Transfer(CAROL.public_key, 1, 1)
        fields = (1, SPEC.chain_id, 1, ALICE.public_key, nonce, COIN, 100, payload)
        return encode(sign_transaction(Transaction(*fields), ALICE))

    first, second = sign(0), sign(1)
    for limits, reason in [
        (ChunkLimits(len(first) + 10, 10**6, 10, 10), "bytes"),
        (ChunkLimits(10**6, 200, 10, 10), "work"),
        (ChunkLimits(10**6, 10**6, 1, 10), "transactions"),
    ]:
        run = chain.start(1, limits)
        run.execute(first)
        with pytest.raises(ChunkFull, match=reason):
            run.execute(second)
        assert len(run.finish().transactions) == 1
    run = chain.start(1, ChunkLimits(10**6, 10**6, 10, 0))
    chain.inject(Packet(0, 1, 0, PacketKind.BOUNCE, 1, encode((ALICE.public_key,))))
    with pytest.raises(ChunkFull, match="packets"):
        run.consume(chain.inbox[1][0])
    assert chain.start(1, NO_LIMITS).is_empty

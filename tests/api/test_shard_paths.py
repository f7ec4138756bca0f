"""Chunks, packets and proofs, by REST and by JSON-RPC, over a real chain."""

import pytest
from chain_backend import ChainNode
from chain_world import ALICE, CAROL, COIN, DAVE
from proof_checks import verify_state_proof
from serving import get, serve

from chain.queries.queries import Queries
from chain.records.keys import build_account_key, build_registration_key
from chain.records.transfer import Transfer
from chain.state.proofs import StateProof, verify_membership
from p2pchain.api.views import committees
from primitives import bls
from primitives.address import encode_address
from primitives.codec import decode
from shards.certificate import (
    ChunkCertificate,
    validate_chunk_certificate,
)
from shards.committee import MANDATES, MAX_WHOLE_SET, draw_committee
from shards.fraud import Halt
from shards.packet import PacketProof, verify_packet_proof

CAROL_, DAVE_ = (encode_address(key.public_key) for key in (CAROL, DAVE))


@pytest.fixture(scope="module")
def node():
    """A provider over two shards, and money from one to another."""
    node = ChainNode()
    world = node.world
    node.add_provider(CAROL)
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN), 1))
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 1, 5), 1))
    return node


@pytest.fixture(scope="module")
def server(node):
    with serve(node) as running:
        yield running


def test_a_chunk_says_who_made_it_and_who_stands_for_it(server, node):
    head = node.tree.final.heads[1]
    chunk = get(server, f"/shard/1/chunk/{head.seq}")
    powers = {member.index: member for member in node.queries.stakes.list_members(0)}
    assert chunk["producer_name"] == f"validator-{head.producer}"
    certificate = chunk["certificate"]
    signers = [each["index"] for each in certificate["endorsers"]]
    assert [each["name"] for each in certificate["endorsers"]] == [
        powers[index].stake.name for index in signers
    ]
    assert certificate["power"] == str(len(signers) * 1000 * COIN)
    # The answer is enough to check it with: nothing of it has to be believed.
    committee = node.queries.shards.compute_committee(head, node.tree.spec.seed)
    validate_chunk_certificate(
        head,
        ChunkCertificate(
            bytes.fromhex(certificate["bitmap"][2:]),
            bytes.fromhex(certificate["signature"][2:]),
        ),
        committee,
        node.tree.epoch.validators,
        node.tree.spec.chain_id,
        bls,
    )
    assert certificate["committee"]["needed"] == str(committee.needed)
    assert get(server, f"/chunk/{chunk['chunk_hash']}") == chunk
    assert server.result("chunk_get", hash=chunk["chunk_hash"]) == chunk
    assert server.result("chunk_get", shard=1, seq=head.seq) == chunk
    block = get(server, f"/block/{chunk['height']}")
    shown = next(each for each in block["chunks"] if each["shard"] == 1)
    assert shown["certificate"] == certificate
    assert shown["tx_ids"] == chunk["tx_ids"] != []


def test_chunks_come_in_pages_newest_first(server, node):
    chunks, after = [], ""
    while True:
        page = get(server, f"/shard/1/chunks?limit=2{after}")
        chunks += page["chunks"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    numbers = [int(chunk["seq"]) for chunk in chunks]
    assert numbers == list(range(node.tree.final.heads[1].seq, 0, -1))
    names = [chunk["chunk_hash"] for chunk in chunks]
    assert [chunk["prev_chunk"] for chunk in chunks[:-1]] == names[1:]
    root = get(server, "/shard/0/chunks")["chunks"]
    assert all(chunk["certificate"] is None for chunk in root)


def test_a_chunk_says_which_packets_it_took_and_sent(server):
    first = get(server, "/shard/1/chunk/1")
    assert first["sent"] == [{"dst": 2, "first": "0", "count": 1}]
    assert first["consumed"] == []
    taking = get(server, "/shard/2/chunk/1")
    assert taking["consumed"] == [{"src": 1, "first": "0", "count": 1}]


def test_a_packet_waits_and_is_consumed(node):
    fresh = ChainNode()
    world = fresh.world
    sent = world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN), 1))
    with serve(fresh) as server:
        packet = get(server, "/packets/1/2/0")
        assert (packet["state"], packet["consumed_height"]) == ("waiting", None)
        assert packet["source_height"] == str(sent.height)
        assert packet["content"]["recipient"] == DAVE_
        proof = decode(PacketProof, bytes.fromhex(packet["proof"][2:]))
        assert verify_packet_proof(proof, bytes.fromhex(packet["out_root"][2:]))
        taken = world.advance()
        packet = get(server, "/packets/1/2/0")
        assert packet["state"] == "consumed"
        assert packet["consumed_height"] == str(taken.height)
        assert server.result("packet_get", src=1, dst=2, seq=0) == packet
        listed = get(server, "/packets/1/2")["packets"]
        assert listed == [{name: packet[name] for name in listed[0]}]


def test_a_shard_names_hosts_and_who_is_on_duty(server, node):
    shard = get(server, "/shard/1")
    (host,) = shard["hosts"]
    assert (host["account"], host["layers"], host["home"]) == (CAROL_, [2, 6], 1)
    assert get(server, "/shard/2")["hosts"] == [host]
    duty = shard["duty"]
    known = node.queries.shards.get_duty(1, int(duty["view"]))
    assert [each["index"] for each in duty["producers"]] == list(known.producers)
    assert [each["rank"] for each in duty["producers"]] == [0, 1, 2]
    members = [each["index"] for each in duty["committee"]["members"]]
    assert members == list(known.committee.members)
    assert duty["committee"]["bad_chunk_probability"] == 0
    assert duty["committee"]["security"] == "impossible while less than 1/3 is faulty"
    assert shard["tree"]["keys_exact"] is True
    assert shard["tree"]["buckets"] == 4 ** shard["tree"]["levels"]
    root = get(server, "/shard/0")
    assert (root["duty"], root["hosts"]) == (None, [])


def test_a_halted_shard_says_why(server, node, monkeypatch):
    halt = Halt(1, bytes([5]) * 32, bytes([6]) * 32, 4)
    monkeypatch.setattr(
        node.queries.shards, "get_halt", lambda shard: halt if shard == 1 else None
    )
    phases = [shard["phase"] for shard in get(server, "/shards")["shards"]]
    assert phases == ["active", "halted", "active"]
    shown = get(server, "/shard/1")["halt"]
    assert shown == {
        "shard": 1,
        "chunk_hash": "0x" + "05" * 32,
        "fraud_id": "0x" + "06" * 32,
        "height": "4",
    }
    assert get(server, "/shard/2")["halt"] is None


def test_the_keys_of_a_shard_are_counted_or_reckoned(node):
    exact = node.queries.shards.count_keys(1)
    assert exact.is_exact
    tree = node.tree
    assert exact.keys == sum(
        len(tree.final.view.get_bucket(1, index))
        for index in range(4**tree.spec.params.bucket_levels)
    )
    many = ChainNode()
    world = many.world
    for start in range(0, 200, 50):
        recipients = (bytes([9]) + i.to_bytes(31) for i in range(start, start + 50))
        world.advance(
            *(world.sign(ALICE, Transfer(each, 1, 1), 1) for each in recipients)
        )
    reckoned = Queries(many.tree).shards.count_keys(1)
    assert not reckoned.is_exact
    assert 100 < reckoned.keys < 400


def test_a_larger_set_has_mandates_and_a_probability(node, monkeypatch):
    names = ("somebody",) * (MAX_WHOLE_SET + 1)
    monkeypatch.setattr(committees, "get_validator_names", lambda *_: names)
    committee = draw_committee(bytes(32), 1, 1, [COIN] * len(names))
    shown = committees.build_committee(node, committee, 0)
    assert shown["unit"] == "mandates"
    assert (shown["needed"], shown["total"]) == ("65", str(MANDATES))
    assert shown["bad_chunk_probability"] == pytest.approx(6.4e-12, rel=0.01)
    assert shown["security"] == "6.4e-12 with 1/3 faulty"
    assert sum(int(each["weight"]) for each in shown["members"]) == MANDATES


def test_answers_come_with_proofs_on_demand(server, node):
    spec = node.tree.spec
    account = get(server, f"/address/{CAROL_}?prove=true")
    assert [proof["shard"] for proof in account["proofs"]] == [0, 1, 2]
    for entry in account["proofs"]:
        proof = decode(StateProof, bytes.fromhex(entry["proof"][2:]))
        assert proof.key == build_account_key(CAROL.public_key)
        assert verify_state_proof(
            proof,
            spec.chain_id,
            spec.params.bucket_levels,
            node.tree.epoch.validators,
            bls,
        )
    assert "proofs" not in get(server, f"/address/{CAROL_}")
    assert server.result("account", address=CAROL_, prove=True) == account

    provider = get(server, f"/providers/{CAROL_}?prove=true")
    (registration,) = provider["registrations"]
    proof = decode(StateProof, bytes.fromhex(registration["proof"]["proof"][2:]))
    assert (proof.shard, proof.key) == (1, build_registration_key(CAROL.public_key))
    assert proof.value is not None
    assert verify_membership(proof, spec.params.bucket_levels)
    assert server.result("provider_get", address=CAROL_, prove=True) == provider


def test_a_state_of_before_is_proven_too(server, node):
    key = "0x" + build_account_key(DAVE.public_key).hex()
    before = get(server, f"/shard/1/state/{key}?height=1")
    assert (before["value"], before["state_height"]) == (None, "1")
    now = get(server, f"/shard/1/state/{key}")
    assert now["value"] is not None
    assert now == server.result("state_proof", shard=1, key=key)


@pytest.mark.parametrize(
    "path",
    [
        "/shard/9",
        "/shard/9/chunks",
        "/shard/1/chunk/0",
        "/shard/1/chunk/999",
        "/chunk/0x" + "11" * 32,
        "/packets/0/9",
        "/packets/1/2/999",
        "/packets/9/1/0",
        f"/providers/{DAVE_}",
        "/shard/9/state/0x61",
        "/shard/1/state/0x61?height=999",
    ],
)
def test_what_is_not_there_is_a_typed_error(server, path):
    error = get(server, path, 404)["error"]
    assert error["code"] == "not_found"
    assert error["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/shard/many",
        "/shard/70000/chunks",
        "/shard/1/chunks?after=zz",
        "/shard/1/chunks?after=00",
        "/shard/1/chunk/-1",
        "/chunk/0x11",
        "/packets/1/2/x",
        "/shard/1/state/0xz1",
        "/shard/1/state/0x61?height=x",
        f"/address/{DAVE_}?prove=maybe",
    ],
)
def test_what_makes_no_sense_is_named(server, path):
    assert get(server, path, 400)["error"]["code"] == "invalid_params"


@pytest.mark.parametrize(
    "params", [{}, {"shard": 1}, {"seq": 1}, {"hash": "0x" + "11" * 32, "shard": 1}]
)
def test_a_chunk_is_named_in_one_way(server, params):
    error = server.error("chunk_get", **params)
    assert error["data"] == {"code": "invalid_params", "param": "hash"}

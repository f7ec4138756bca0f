"""Evidence over RPC: brought by anybody, listed with what it cost."""

import msgspec
import pytest
from chain_backend import ChainNode
from chain_evidence import build_court, make_certificates, make_votes
from chain_world import COIN, STAKERS, build_genesis
from evidence_court import make_vote_pair
from serving import serve

from chain.checks.conservation import compute_conservation
from primitives.address import encode_address
from primitives.codec import encode

STAKE = 1000 * COIN
STAKERS_ = [encode_address(key.public_key) for key in STAKERS]


@pytest.fixture
def node():
    return ChainNode()


@pytest.fixture
def server(node):
    with serve(node) as running:
        yield running


def bring(server, data: bytes):
    return server.result("broadcast_evidence", evidence="0x" + data.hex())


def test_a_slash_stands_in_the_history_of_whom_it_hit(server, node):
    node.make_block()
    verdict = bring(server, make_votes(node.world.spec, 2))
    node.make_block()
    taken = {
        "kind": "slashed",
        "object_id": verdict["evidence_id"],
        "amount": str(STAKE // 20),
    }
    answer = server.result("account_events", address=STAKERS_[2])
    [event] = answer["events"]
    assert event.items() >= (taken | {"height": "2"}).items()
    assert event["names"] == ["validator-2"]
    path = f"/api/v1/address/{STAKERS_[2]}/events"
    assert server.request(path).json["events"] == [event]
    # Whoever led the block was paid for it, and nobody else was touched.
    kinds = [
        each["kind"]
        for account in (STAKERS_[0], STAKERS_[1], STAKERS_[3])
        for each in server.result("account_events", address=account)["events"]
    ]
    assert kinds in (["slash_reward"], [])


def test_an_accounts_events_come_in_pages():
    node = ChainNode(build_genesis(epoch_blocks=2, epoch_reward=4 * COIN))
    node.world.advance(blocks=10)
    with serve(node) as server:
        first = server.result("account_events", address=STAKERS_[0], limit=2)
        assert [event["height"] for event in first["events"]] == ["10", "8"]
        assert {event["kind"] for event in first["events"]} == {"rewarded"}
        rest = server.result("account_events", address=STAKERS_[0], after=first["next"])
        assert [event["height"] for event in rest["events"]] == ["6", "4", "2"]
        assert rest["next"] is None
        other = {"address": STAKERS_[1], "after": first["next"]}
        assert server.error("account_events", **other)


def test_evidence_is_taken_applied_and_listed(server, node):
    node.make_block()
    evidence = make_votes(node.world.spec, 2)
    verdict = bring(server, evidence)
    assert verdict["offence"] == "nullify_and_finalize"
    assert (verdict["epoch"], verdict["view"]) == (0, "7")
    [guilty] = verdict["guilty"]
    assert (guilty["name"], guilty["account"]) == ("validator-2", STAKERS_[2])
    before = server.result("evidence_list")
    [waiting] = before["waiting"]
    assert waiting == verdict | {"data": "0x" + evidence.hex()}
    assert before["evidence"] == []

    node.make_block()
    after = server.result("evidence_list")
    assert after["waiting"] == []
    [applied] = after["evidence"]
    assert applied["evidence_id"] == verdict["evidence_id"]
    assert applied["height"] == after["height"] == "2"
    assert applied["data"] == "0x" + evidence.hex()
    assert applied["convicted"] == [
        {
            "name": "validator-2",
            "account": STAKERS_[2],
            "amount": str(STAKE // 20),
        }
    ]
    leader = node.tree.final.header.proposer
    if leader == 2:
        assert applied["reporter"] is None
    else:
        assert applied["reporter"]["account"] == STAKERS_[leader]
        assert applied["reporter"]["amount"] == str(STAKE // 400)
    stake = server.result("stake", address=STAKERS_[2])
    assert (stake["status"], stake["slashed"]) == ("TOMBSTONED", str(STAKE // 20))
    assert compute_conservation(node.tree).is_conserved


def test_pages(server, node):
    for signer in range(3):
        bring(server, make_votes(node.world.spec, signer))
        node.make_block()
    first = server.result("evidence_list", limit=2)
    assert [e["height"] for e in first["evidence"]] == ["3", "2"]
    second = server.result("evidence_list", limit=2, after=first["next"])
    assert [e["height"] for e in second["evidence"]] == ["1"]
    assert second["next"] is None


def test_a_whole_quorum(server, node):
    verdict = bring(server, make_certificates(node.world.spec))
    assert [each["name"] for each in verdict["guilty"]] == [
        f"validator-{index}" for index in range(3)
    ]
    node.make_block()
    [applied] = server.result("evidence_list")["evidence"]
    assert len(applied["convicted"]) == 3


def test_noise_and_forgeries_are_invalid(server, node):
    pair = make_vote_pair(build_court(node.world.spec), 1, 0)
    forged = msgspec.structs.replace(pair.first, signature=pair.second.signature)
    for data in (b"\x01", encode(type(pair)(forged, pair.second))):
        error = server.error("broadcast_evidence", evidence="0x" + data.hex())
        assert error["code"] == -32602
    assert server.error("broadcast_evidence", evidence="0x")["code"] == -32602
    assert server.result("evidence_list")["waiting"] == []


def test_evidence_that_convicts_nobody_now(server, node):
    evidence = make_votes(node.world.spec, 2)
    bring(server, evidence)
    early = make_votes(node.world.spec, 1, epoch=2)
    for data in (evidence, early):
        error = server.error("broadcast_evidence", evidence="0x" + data.hex())
        assert error["code"] == -32003
        assert error["data"]["code"] == "evidence_refused"
    node.make_block()
    error = server.error("broadcast_evidence", evidence="0x" + evidence.hex())
    assert error["code"] == -32003


def test_no_link_submits_evidence(server, node):
    evidence = make_votes(node.world.spec, 2)
    answer = server.request(f"/broadcast_evidence?evidence=0x{evidence.hex()}")
    assert answer.status in (404, 405)
    assert server.result("evidence_list")["waiting"] == []

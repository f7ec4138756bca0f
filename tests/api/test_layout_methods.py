"""Layouts over HTTP: shards as they are and will be, proposals, votes."""

import pytest
from chain_backend import KEY, ChainNode
from chain_world import ALICE, COIN, KEYS, MODEL, STAKERS, build_genesis
from reshard_world import OTHER_MODEL
from serving import TOKEN, serve

from chain.records.keys import build_layout_key
from chain.records.resharding import ReshardVote
from chain.records.transfer import Transfer
from primitives.codec import encode

L = 4


@pytest.fixture
def node(monkeypatch):
    monkeypatch.setitem(KEYS, KEY.public_key, KEY)
    node = ChainNode(build_genesis(epoch_blocks=L, grace_blocks=L, bucket_levels=4))
    payments = [
        node.world.sign(ALICE, Transfer(staker.public_key, 0, COIN))
        for staker in STAKERS
    ]
    node.world.advance(*payments)
    return node


@pytest.fixture
def server(node):
    with serve(node) as running:
        yield running


@pytest.fixture
def ask(server):
    def ask(method, **params):
        return server.result(method, token=TOKEN, **params)

    return ask


def stake(ask):
    ask("wallet_stake", amount=str(COIN), wait=True)


def vote(node, number):
    world = node.world
    votes = [world.sign(staker, ReshardVote(number)) for staker in STAKERS]
    world.advance(*votes)


def end_epoch(node):
    running = node.tree.epoch.epoch
    while node.tree.epoch.epoch == running:
        node.make_block()


def test_the_layout_of_genesis(server):
    answer = server.result("layout")
    assert answer["epoch"] == 0
    assert answer["proposals"] == []
    assert answer["shards"] == answer["next_shards"]
    assert [s["shard_id"] for s in answer["shards"]] == [1, 2]
    first = answer["shards"][0]
    assert (first["model"], first["start"], first["end"]) == ("toy", 0, 4)
    assert (first["phase"], first["last_height"]) == ("active", None)
    assert server.request("/api/v1/layout").json["shards"] == answer["shards"]
    assert server.result("status")["shards"] == [0, 1, 2]


def test_a_split_from_the_proposal_to_the_shard(server, node, ask):
    stake(ask)
    answer = ask("wallet_propose_split", shard=1, layer=2, wait=True)
    assert answer["final"]
    (proposal,) = answer["proposals"]
    assert proposal["change"] == {"kind": "split_shard", "shard": 1, "layer": 2}
    assert (proposal["number"], proposal["power"]) == (0, "0")
    assert (proposal["name"], proposal["approved"]) == ("alice", False)
    vote(node, 0)
    (proposal,) = server.result("layout")["proposals"]
    assert proposal["approved"]
    assert len(proposal["votes"]) == 5
    end_epoch(node)
    answer = server.result("layout")
    assert [s["shard_id"] for s in answer["shards"]] == [1, 2]
    assert [s["shard_id"] for s in answer["next_shards"]] == [1, 2, 3]
    assert answer["proposals"] == []
    end_epoch(node)
    answer = server.result("layout")
    assert [(s["start"], s["end"]) for s in answer["shards"]] == [
        (0, 2),
        (4, 8),
        (2, 4),
    ]
    assert server.result("status")["shards"] == [0, 1, 2, 3]
    shard = server.request("/api/v1/shard/3").json
    assert (shard["layers"], shard["changed_epoch"]) == ([2, 4], answer["epoch"])
    header = server.result("header")["header"]
    assert header["next_layout_root"] == answer["next_layout_root"]
    # The node proves what a light client needs to follow.
    key = "0x" + build_layout_key(answer["epoch"]).hex()
    assert server.result("state_proof", shard=0, key=key)["value"]
    assert server.result("state_proof", shard=3, key=key)["value"] is None


def test_a_model_comes_and_goes(server, node, ask):
    stake(ask)
    model = "0x" + encode(OTHER_MODEL).hex()
    (proposal,) = ask("wallet_propose_model", model=model, shards=2, wait=True)[
        "proposals"
    ]
    assert (proposal["change"]["name"], proposal["change"]["shards"]) == ("second", 2)
    vote(node, 0)
    end_epoch(node)
    end_epoch(node)
    names = [s["model"] for s in server.result("layout")["shards"]]
    assert names == ["toy", "toy", "second", "second"]
    model_id = "0x" + OTHER_MODEL.model_id.hex()
    ask("wallet_propose_retire", model_id=model_id, wait=True)
    vote(node, 1)
    end_epoch(node)
    end_epoch(node)
    phases = [s["phase"] for s in server.result("layout")["shards"]]
    assert phases == ["active", "active", "draining", "draining"]
    closes = int(server.result("layout")["shards"][3]["last_height"])
    while node.tree.final_height < closes:
        node.make_block()
    assert server.request("/api/v1/shard/4").json["phase"] == "sweeping"
    while len(node.tree.layout.shards) > 2:
        node.make_block()
    assert server.result("status")["shards"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("method", "params", "reason"),
    [
        ("wallet_propose_split", {"shard": 1, "layer": 4}, "bad_reshard"),
        ("wallet_propose_retire", {"model_id": "0x" + "00" * 32}, "bad_reshard"),
        ("wallet_vote", {"number": 7}, "unknown_proposal"),
    ],
)
def test_refusals_say_why(server, ask, method, params, reason):
    stake(ask)
    error = server.error(method, token=TOKEN, **params, wait=True)
    assert error["data"]["reason"] == reason


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("wallet_propose_split", {"shard": "x", "layer": 4}),
        ("wallet_propose_split", {"shard": 1}),
        ("wallet_propose_model", {"model": "0x00", "shards": 1}),
        ("wallet_propose_model", {"model": "0x" + encode(MODEL).hex(), "shards": -1}),
        ("wallet_propose_retire", {"model_id": "toy"}),
        ("wallet_vote", {"number": 2**32}),
    ],
)
def test_parameters_that_are_none(server, method, params):
    error = server.error(method, token=TOKEN, **params)
    assert error["code"] == -32602


def test_only_the_owner_proposes(server):
    error = server.error("wallet_propose_split", shard=1, layer=2)
    assert "token" in error["message"]

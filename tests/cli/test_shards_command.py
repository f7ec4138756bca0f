"""`p2pchain shards` against a node with short epochs."""

import json

import pytest
from chain_backend import KEY, ChainNode
from chain_world import ALICE, COIN, KEYS, STAKERS, build_genesis

from chain.records.resharding import ReshardVote
from chain.records.transfer import Transfer

L = 4


@pytest.fixture
def node(monkeypatch):
    monkeypatch.setitem(KEYS, KEY.public_key, KEY)
    node = ChainNode(build_genesis(epoch_blocks=L, grace_blocks=L, bucket_levels=4))
    world = node.world
    world.advance(
        *(world.sign(ALICE, Transfer(s.public_key, 0, COIN)) for s in STAKERS)
    )
    return node


@pytest.fixture
def run(run):
    """Run a command by a validator of one coin; returns all that it said."""
    run("wallet", "stake", "1")

    def run_and_join(*words, **options):
        said = run(*words, **options)
        return said.out + said.err

    return run_and_join


def approve(node, number):
    world = node.world
    world.advance(*(world.sign(s, ReshardVote(number)) for s in STAKERS))


def end_epoch(node):
    running = node.tree.epoch.epoch
    while node.tree.epoch.epoch == running:
        node.make_block()


def test_a_split(run, node):
    said = run("shards", "list")
    assert "root" in said
    assert "toy" in said
    assert "proposals" not in said
    said = run("shards", "propose-split", "1", "2")
    assert "split shard 1 at layer 2" in said
    assert "open to epoch" in said
    approve(node, 0)
    assert "approved" in run("shards", "list")
    end_epoch(node)
    said = run("shards", "list")
    assert "from epoch" in said
    assert "2:4" in said
    end_epoch(node)
    assert "from epoch" not in run("shards", "list")
    assert json.loads(run("--json", "shards", "list"))["shards"][2]["start"] == 2


def test_a_model(run, node):
    said = run("shards", "propose-model", "bundled", "--shards", "2", "--no-wait")
    assert "final        no" in said
    node.make_block()
    assert "in 2 shards" in run("shards", "list")
    approve(node, 0)
    end_epoch(node)
    end_epoch(node)
    (name,) = {
        s["model"]
        for s in json.loads(run("--json", "shards", "list"))["shards"]
        if s["model"] != "toy"
    }
    assert "retire" in run("shards", "propose-retire", name)
    assert "no shard is of a model" in run("shards", "propose-retire", "x", code=1)


def test_votes(run):
    assert "no proposal 0 is open" in run("shards", "vote", "0", code=1)
    run("shards", "propose-split", "1", "2")
    assert "has voted for it" in run("shards", "vote", "0", code=1)


def test_wrong_words(run):
    for words in (["propose-split", "0", "2"], ["propose-split", "1"], ["vote", "x"]):
        with pytest.raises(SystemExit):
            run("shards", *words)

"""What the demo shows of the shards, over a real chain."""

import pytest
from chain_backend import ChainNode
from chain_world import ALICE, COIN, DAVE
from serving import serve

from chain.records.transfer import Transfer
from p2pchain.cli.demo_shards import describe_shard_work, load_shard_work
from p2pchain.client import RpcClient


@pytest.fixture(scope="module")
def work():
    """A payment across shards after three blocks that do not count."""
    node = ChainNode()
    world = node.world
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 1, COIN)), blocks=3)
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN), 1), blocks=2)
    with serve(node) as server:
        return load_shard_work(RpcClient(server.url), 4)


def test_chunks_and_packets_are_those_since_a_height(work):
    assert [(c["height"], c["shard"], c["seq"]) for c in work["chunks"]] == [
        ("4", 1, "2"),
        ("5", 2, "1"),
    ]
    assert [chunk["packets_taken"] for chunk in work["chunks"]] == [0, 1]
    (packet,) = work["packets"]
    assert (packet["src"], packet["dst"], packet["seq"]) == (1, 2, "0")
    assert packet["consumed_height"] == "5"


def test_they_are_told_in_tables(work):
    text = describe_shard_work(work)
    assert "toy [0, 4)" in text
    assert "1 > 2 #0  credit  1 P2P" in text
    producer = work["chunks"][0]["producer_name"]
    endorsers = [e["name"] for e in work["chunks"][0]["certificate"]["endorsers"]]
    assert f"{producer}  {', '.join(endorsers)} (75 %)" in text

"""A light client while the shards change under it."""

import pytest
from chain_backend import ChainNode
from chain_world import ALICE, COIN, MODEL
from light_node import Liar
from reshard_world import EPOCH, OTHER_MODEL, ReshardWorld, build_reshard_genesis
from serving import serve

from chain.errors import InvalidProof
from chain.mempool import Mempool
from chain.queries.queries import Queries
from chain.records.keys import build_layout_key
from chain.records.proposal import AddModel, RetireModel, SplitShard
from p2pchain.errors import BadAnswer
from p2pchain.light.client import LightClient
from p2pchain.light.trust import Trust
from primitives.codec import encode


class ReshardNode(ChainNode):
    def __init__(self):
        genesis = build_reshard_genesis()
        super().__init__(genesis)
        self.world = ReshardWorld()
        self.tree = self.world.tree
        self.queries = Queries(self.tree)
        self.mempool = Mempool(self.tree.spec, self.tree.verified)
        self.genesis = genesis


@pytest.fixture
def node():
    node = ReshardNode()
    node.world.step()
    return node


@pytest.fixture
def rpc(node):
    with serve(node) as server:
        yield Liar(server.url)


@pytest.fixture
def client(node, rpc):
    return LightClient(
        rpc,
        Trust.from_genesis(node.genesis),
        clock=lambda: node.world.now_ms,
        pause=lambda _: None,
    )


def check(client, node):
    """Compare what is proven with what there is."""
    client.sync()
    shown = client.list_accounts(ALICE.public_key)
    assert tuple(account.shard for account in shown) == node.tree.layout.shard_ids
    found = node.queries.list_accounts(ALICE.public_key)
    assert [s.account.balance for s in shown] == [f.balance for f in found]
    assert client.trust.layout == node.tree.layout


def test_it_follows_every_layout(client, node):
    world = node.world
    check(client, node)
    world.propose(SplitShard(1, 2))
    seen = []
    for _ in range(3 * EPOCH):
        world.step()
        check(client, node)
        seen.append(len(client.trust.layout.shards))
    assert sorted(set(seen)) == [2, 3]
    world.change_layout(AddModel(OTHER_MODEL, 2))
    check(client, node)
    world.change_layout(RetireModel(MODEL.model_id))
    for _ in range(10 * EPOCH):
        world.step()
        check(client, node)
    assert node.tree.layout.shard_ids == (0, 4, 5)
    balances = client.list_accounts(ALICE.public_key)
    assert balances[0].account.balance == 300 * COIN


def test_many_epochs_later(client, node):
    check(client, node)
    node.world.change_layout(SplitShard(1, 2))
    node.world.change_layout(SplitShard(2, 5))
    node.world.go_to_epoch(20)
    check(client, node)


def test_the_trust_on_disk_knows_the_shards(client, node):
    from primitives.codec import decode

    node.world.change_layout(SplitShard(1, 2))
    check(client, node)
    trust = decode(Trust, encode(client.trust))
    assert trust.layout.shard_ids == (0, 1, 2, 3)


def test_another_layout_is_not_proven(client, node, rpc):
    node.world.change_layout(SplitShard(1, 2))
    client.sync()
    right = rpc.call("state_proof", shard=0, key=get_key(node))
    wrong = rpc.call("state_proof", shard=0, key=get_key(node, 1))

    def lie(answer, params):
        return wrong if params["key"] == get_key(node) else answer

    assert right != wrong
    rpc.lies["state_proof"] = lie
    with pytest.raises(InvalidProof):
        client.list_accounts(ALICE.public_key)
    assert client.trust.layout.shard_ids == (0, 1, 2)


def test_a_node_that_has_no_layout(client, node, rpc, monkeypatch):
    """The key of an epoch that is over; it is absent, and that is proven."""
    node.world.change_layout(SplitShard(1, 2))
    client.sync()
    monkeypatch.setattr(
        "p2pchain.light.client.build_layout_key", lambda epoch: build_layout_key(0)
    )
    with pytest.raises(BadAnswer, match="no shards"):
        client.list_accounts(ALICE.public_key)


def get_key(node, later=0):
    epoch = node.tree.epoch.epoch + later
    return "0x" + build_layout_key(epoch).hex()

"""/api/v1 and RPC of a node whose history begins with a snapshot."""

import pytest
from chain_backend import ChainNode
from chain_world import ALICE, BOB, COIN, SIGNER, World, build_genesis
from serving import get, serve
from snapshot_world import install

from chain.mempool import Mempool
from chain.queries.queries import Queries
from chain.records.transfer import Transfer
from primitives.address import encode_address
from primitives.kv import MemoryStore

EPOCH = 4
BEGIN = 3 * EPOCH


@pytest.fixture(scope="module")
def node() -> ChainNode:
    """A chain of three epochs, and a node that began with the snapshot at its end."""
    node = ChainNode(build_genesis(epoch_blocks=EPOCH))
    world = node.world
    world.blocks = EPOCH
    node.add_provider(BOB)
    node.add_channel(ALICE, BOB, SIGNER)
    while world.tree.final_height < BEGIN - 1:
        world.advance()
    world.advance(world.sign(ALICE, Transfer(BOB.public_key, 2, COIN)))
    node.before = node.queries.market.list_registrations()
    node.world = install(world, MemoryStore())
    node.world.nonces = world.nonces
    assert isinstance(node.world, World)
    node.tree = node.world.tree
    node.queries = Queries(node.tree)
    node.mempool = Mempool(node.tree.spec, node.tree.verified)
    node.evidence._judge = node.tree.judge
    return node


@pytest.fixture(scope="module")
def server(node):
    with serve(node) as running:
        yield running


def test_every_page_is_there(server, node):
    alice = encode_address(ALICE.public_key)
    for path in (
        "/blocks", "/blocks/tip/height", f"/block/{BEGIN}",
        f"/block/0x{node.tree.final_hash.hex()}", f"/address/{alice}",
        f"/address/{alice}/txs", f"/address/{alice}/events", "/shards", "/shard/0",
        "/shard/1", "/shard/2", "/packets/0/2", "/packets/0/1", "/work", "/channels"
        f"?address={alice}", f"/channels/0x{node.channel_id.hex()}", "/providers",
        "/models", "/validators", "/epochs/running", "/stakes", "/evidence", "/supply",
        f"/search?q={BEGIN}",
    ):  # fmt: skip
        get(server, path)


def test_the_first_height_is_said(server):
    page = get(server, "/blocks")
    assert page["first_height"] == str(BEGIN)
    assert [int(block["height"]) for block in page["blocks"]] == [BEGIN]
    assert page["next"] is None


def test_blocks_before_are_not_found_and_the_answer_says_why(server):
    for path in (
        f"/block/{BEGIN - 1}",
        "/block/0",
        "/block/1/txs",
        f"/block/{BEGIN}/txs",
    ):
        answer = server.request("/api/v1" + path)
        assert answer.status == 404, (path, answer.body)
        assert f"begins at {BEGIN}" in answer.body.decode(), path
    get(server, f"/block/{BEGIN + 1}", 404)


def test_what_the_state_tells_is_listed_as_before(server, node):
    assert node.queries.market.list_registrations() == node.before
    alice = encode_address(ALICE.public_key)
    channels = get(server, f"/channels?address={alice}")["channels"]
    assert [channel["channel_id"] for channel in channels] == [
        "0x" + node.channel_id.hex()
    ]


def test_the_chain_goes_on(server, node):
    for _ in range(2 * EPOCH):
        node.make_block()
    page = get(server, "/blocks")
    assert len(page["blocks"]) == 2 * EPOCH + 1
    epoch = node.tree.epoch.epoch
    for number in range(epoch - 1, epoch + 2):
        get(server, f"/epochs/{number}")


def test_chunks_are_shown_as_far_as_they_are_known(server, node):
    for shard in (0, 1, 2):
        shown = server.request(f"/api/v1/shard/{shard}")
        assert shown.status == 200
        listed = server.request(f"/api/v1/shard/{shard}/chunks").json["chunks"]
        for chunk in listed:
            path = f"/api/v1/shard/{shard}/chunk/{chunk['seq']}"
            is_here = int(chunk["height"]) > BEGIN
            assert server.request(path).status == (200 if is_here else 404)
            if not is_here:
                assert chunk["certificate"] is None

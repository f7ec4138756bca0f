"""/api/v1 and RPC of a node that follows one layer shard of two."""

import pytest
import trio
from chain_backend import ChainNode
from chain_world import ALICE, COIN, DAVE
from proof_checks import verify_state_proof
from serving import TOKEN, get, serve

from chain.mempool import Mempool
from chain.queries.foreign_state import ForeignValue, Question, show_values
from chain.queries.queries import Queries
from chain.records.account import Account
from chain.records.keys import build_account_key
from chain.records.transfer import Transfer
from chain.state.proofs import StateProof
from chain.tree.following import Follow
from chain.tree.opening import open_tree
from p2pchain.cli.main import main
from p2pchain.client import RpcClient
from p2pchain.errors import UnknownFunds
from p2pchain.light.client import LightClient
from p2pchain.light.spending import LightWallet
from p2pchain.light.trust import Trust
from primitives import bls
from primitives.address import encode_address
from primitives.codec import decode
from primitives.kv import MemoryStore


class PartialNode(ChainNode):
    """Its one peer follows everything, and answers if a test says so."""

    peer = None
    shows = False

    async def read_foreign(self, key, shards, oldest=0):
        await trio.lowlevel.checkpoint()
        height = self.tree.final_height
        question = Question(key, tuple(shards), height, oldest)
        if not self.shows:
            return {}
        return {
            shown.shard: ForeignValue(shown.value, height, shown.proof)
            for shown in show_values(self.peer, question, height)
        }


ALICE_, DAVE_ = encode_address(ALICE.public_key), encode_address(DAVE.public_key)


@pytest.fixture(scope="module")
def node():
    """Money went from shard 1 to shard 2, whose state is not here any more."""
    node = PartialNode()
    world = node.world
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN), 1), blocks=3)
    kept = MemoryStore()
    kept.write(dict(world.store._values))
    node.peer = open_tree(world.spec, kept, bls)
    follow = Follow(frozenset({1}))
    node.tree = world.tree = open_tree(world.spec, world.store, bls, follow=follow)
    node.queries = Queries(node.tree)
    node.mempool = Mempool(node.tree.spec, node.tree.verified)
    return node


@pytest.fixture(scope="module")
def server(node):
    with serve(node) as running:
        yield running


def test_headers_and_certificates_are_here_of_all_shards(server):
    shards = get(server, "/shards")["shards"]
    assert [shard["followed"] for shard in shards] == [True, True, False]
    assert [shard["totals"] is None for shard in shards] == [False, False, True]
    assert get(server, "/shard/2")["tree"] is None
    assert get(server, "/shard/1")["tree"]["keys_exact"] is True
    chunk = get(server, "/shard/2/chunk/1")
    assert chunk["certificate"]["endorsers"]
    assert chunk["consumed"] == [{"src": 1, "first": "0", "count": 1}]
    assert get(server, f"/chunk/{chunk['chunk_hash']}") == chunk
    assert get(server, "/packets/1/2/0")["state"] == "consumed"


@pytest.mark.parametrize(
    "path", ["/blocks", "/block/1", "/block/2", "/block/1/txs", "/supply", "/providers"]
)
def test_pages_are_there(server, path):
    get(server, path)


def test_an_account_says_where_nothing_is_known_of_it(server):
    account = get(server, f"/address/{DAVE_}?prove=true")
    assert [each["shard"] for each in account["shards"]] == [0, 1]
    assert [each["shard"] for each in account["proofs"]] == [0, 1]
    assert account["unknown_shards"] == [2]


def test_its_state_is_not_found_and_the_answer_says_why(server):
    error = get(server, "/shard/2/state/0x61", 404)["error"]
    assert error["code"] == "shard_not_followed"
    assert "does not follow shard 2" in error["message"]


def test_peers_show_what_is_not_followed(server, node):
    node.shows = True
    account = get(server, f"/address/{DAVE_}?prove=true")
    assert [each["shard"] for each in account["shards"]] == [0, 1, 2]
    assert [each["followed"] for each in account["shards"]] == [True, True, False]
    assert account["shards"][2]["balance"] == account["total"] == str(COIN)
    assert account["unknown_shards"] == []
    key = build_account_key(DAVE.public_key)
    assert [each["shard"] for each in account["proofs"]] == [0, 1, 2]
    shown = get(server, f"/shard/2/state/0x{key.hex()}")
    for answer in (account["proofs"][2], shown):
        proof = decode(StateProof, bytes.fromhex(answer["proof"][2:]))
        assert decode(Account, proof.value).balance == COIN
        world = node.world
        assert verify_state_proof(
            proof,
            world.spec.chain_id,
            world.spec.params.bucket_levels,
            world.tree.epoch.validators,
            bls,
        )
    node.shows = False


def test_a_light_client_proves_what_peers_show(server, node):
    trust = Trust.from_genesis(node.genesis)
    now_ms = node.world.now_ms
    client = LightClient(RpcClient(server.url), trust, clock=lambda: now_ms)
    client.sync()
    shown = client.list_accounts(DAVE.public_key)
    assert [account.shard for account in shown] == [0, 1]
    assert client.list_missing(shown) == (2,)
    wallet = LightWallet(client, RpcClient(server.url), DAVE)
    with pytest.raises(UnknownFunds, match="not counting shards 2"):
        wallet.send(ALICE.public_key, COIN // 2, 2)
    node.shows = True
    shown = client.list_accounts(DAVE.public_key)
    assert [account.account.balance for account in shown] == [0, 0, COIN]
    assert client.list_missing(shown) == ()
    (payment,) = wallet.send(ALICE.public_key, COIN // 2, 2)
    assert payment.signed.transaction.shard == 2
    node.shows = False


def test_a_history_says_what_is_missing(server):
    history = get(server, f"/address/{DAVE_}/txs")
    # What the node saw while it followed everything is still there.
    assert [tx["shard"] for tx in history["transactions"]] == [1]
    assert history["missing"] == [
        {"shard": 2, "since": "4", "until": None, "reason": ""}
    ]


def test_commands_say_it_too(server, capsys, tmp_path):
    (tmp_path / "api_token").write_text(TOKEN + "\n")
    options = ["--home", str(tmp_path), "--rpc", server.url]
    assert main([*options, "status"]) == 0
    shown = capsys.readouterr().out
    assert "followed: 0, 1" in shown
    rows = [line.split() for line in shown.splitlines() if "active" in line]
    assert [row[-1] == "?" for row in rows if row[0] in "12"] == [False, True]
    assert main([*options, "wallet", "balance", DAVE_]) == 0
    assert "does not follow shards 2" in capsys.readouterr().out

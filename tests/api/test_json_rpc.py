"""JSON-RPC over a real chain: the protocol, the reads, submitting, the wallet."""

import json

import pytest
from chain_backend import ChainNode
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, SIGNER, World
from serving import TOKEN, serve

from chain.records.channel import OpenChannels, Opening
from chain.records.keys import build_account_key
from chain.records.transfer import Transfer
from chain.state.proofs import StateProof
from p2pchain.api.rpc.methods import build_methods
from primitives.address import encode_address
from primitives.codec import decode, encode

ADDRESS = {
    name: encode_address(key.public_key)
    for name, key in {"alice": ALICE, "bob": BOB, "carol": CAROL, "dave": DAVE}.items()
}


@pytest.fixture
def node():
    return ChainNode()


@pytest.fixture
def server(node):
    with serve(node) as running:
        yield running


def hexed(signed):
    return "0x" + encode(signed).hex()


def call(method, identifier=1, **params):
    return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}


# -- the protocol ----------------------------------------------------------------------


def test_a_call_and_its_answer(server):
    answer = server.request("/", call("health", "a"))
    assert answer.status == 200
    assert answer.json == {"jsonrpc": "2.0", "id": "a", "result": {}}


def test_parameters_by_position_and_by_name(server):
    by_name = server.request("/", call("block", height="0")).json["result"]
    by_place = server.request(
        "/", {"jsonrpc": "2.0", "id": 1, "method": "block", "params": [0]}
    ).json["result"]
    assert by_name == by_place


def test_a_batch_is_answered_in_order_and_notifications_not_at_all(server):
    notification = call("health")
    del notification["id"]
    answers = server.request(
        "/", [call("health", 1), notification, call("nothing", 2), 7]
    ).json
    assert [answer["id"] for answer in answers] == [1, 2, None]
    assert answers[1]["error"]["code"] == -32601
    assert answers[2]["error"]["code"] == -32600


def test_notifications_alone_are_not_answered(server):
    answer = server.request("/", {"jsonrpc": "2.0", "method": "health"})
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{]", b"\xff\xfe", b"[1,", b"nul", b"[" * 200_000]
)
def test_malformed_json(server, body):
    answer = server.request("/", body)
    assert answer.status == 400
    assert answer.json["error"]["code"] == -32700
    assert answer.json["id"] is None


@pytest.mark.parametrize(
    "body",
    [
        5,
        "status",
        None,
        [],
        {},
        {"jsonrpc": "1.0", "id": 1, "method": "status"},
        {"jsonrpc": "2.0", "id": 1, "method": 5},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": {}, "method": "status"},
        {"jsonrpc": "2.0", "id": True, "method": "status"},
        {"jsonrpc": "2.0", "id": 2**60, "method": "status"},
        {"jsonrpc": "2.0", "id": "x" * 1000, "method": "status"},
        {"jsonrpc": "2.0", "id": 1, "method": "status", "params": 5},
        [{"jsonrpc": "2.0", "id": 1, "method": "status"}] * 101,
    ],
)
def test_what_is_no_call(server, body):
    answer = server.request("/", b"null" if body is None else body).json
    assert answer["error"]["code"] == -32600


def test_a_huge_body_is_refused(server):
    answer = server.request("/", call("broadcast_tx_sync", tx="0x" + "00" * 600_000))
    assert answer.status == 413
    assert answer.json["error"]["code"] == -32005


def test_an_unknown_method(server):
    error = server.error("eth_blockNumber")
    assert error["code"] == -32601
    assert error["data"]["code"] == "method_not_found"


@pytest.mark.parametrize(
    ("method", "params", "param"),
    [
        ("block", {"height": -1}, "height"),
        ("block", {"height": "ten"}, "height"),
        ("block", {"height": 1.5}, "height"),
        ("block", {"height": True}, "height"),
        ("block", {"height": "9" * 400}, "height"),
        ("block", {"height": 2**63}, "height"),
        ("block", {"hieght": 5}, "hieght"),
        ("block", {"height": 0, "hash": "0x" + "00" * 32}, "hash"),
        ("block_by_hash", {}, "hash"),
        ("block_by_hash", {"hash": "0x1234"}, "hash"),
        ("tx", {"hash": "0x" + "zz" * 32}, "hash"),
        ("tx", {"hash": 5}, "hash"),
        ("account", {"address": "p2p1qqqq"}, "address"),
        (
            "account",
            {"address": "bc1qxy2kgdygjrsqtzq2n0yrf2493p83kkfjhx0wlh"},
            "address",
        ),
        ("account", {"address": None}, "address"),
        ("packet_list", {"src": 70_000, "dst": 0}, "src"),
        ("blocks", {"limit": "many"}, "limit"),
        ("state_proof", {"shard": 0, "key": "xyz"}, "key"),
        ("broadcast_tx_sync", {"tx": 5}, "tx"),
        ("broadcast_tx_sync", {"tx": "0x123"}, "tx"),
        ("route", {"model": "x" * 1000}, "model"),
    ],
)
def test_bad_parameters_are_named(server, method, params, param):
    error = server.error(method, **params)
    assert error["code"] == -32602
    assert error["data"] == {"code": "invalid_params", "param": param}


def test_too_many_parameters(server):
    body = {"jsonrpc": "2.0", "id": 1, "method": "status", "params": [1]}
    assert server.request("/", body).json["error"]["code"] == -32602


def test_reads_answer_to_get_too(server):
    answer = server.request("/block?height=0")
    assert answer.status == 200
    assert answer.json["id"] == -1
    assert answer.json["result"] == server.result("block", height=0)
    assert server.request("/block?height=99").status == 404
    assert server.request("/block?height=x").status == 400
    assert server.request("/block?depth=1").status == 400


@pytest.mark.parametrize(
    "path", ["/broadcast_tx_sync?tx=0x00", "/wallet_send", "/nothing", "/a/b"]
)
def test_what_changes_something_does_not_answer_to_get(server, path):
    answer = server.request(path, token=TOKEN)
    assert answer.status == 404
    assert answer.json["error"]["code"] == -32000


def test_the_openrpc_document_lists_every_method(server):
    document = server.result("rpc.discover")
    assert document["openrpc"].startswith("1.")
    names = [method["name"] for method in document["methods"]]
    assert names == sorted(build_methods("0"))
    wallet = next(m for m in document["methods"] if m["name"] == "wallet_send")
    assert wallet["x-access"] == "wallet"
    assert [p["name"] for p in wallet["params"] if p["required"]] == [
        "recipient",
        "amount",
    ]


# -- reads -----------------------------------------------------------------------------


def test_status_says_where_the_node_stands(server, node):
    status = server.result("status")
    assert status["ready"] is True
    assert status["height"] == "0"
    assert status["block_hash"] == "0x" + node.tree.final_hash.hex()
    assert status["address"] == ADDRESS["alice"]
    assert status["stages"][0]["state"] == "READY"
    assert status["stages"][0]["pid"] == 4242
    assert status["shards"] == [0, 1, 2]


def test_a_node_that_is_not_ready_is_not_healthy(node, server, monkeypatch):
    ready = node.get_status()
    fields = {name: getattr(ready, name) for name in ready.__dataclass_fields__}
    waiting = type(ready)(**(fields | {"waiting_for": "its stage worker"}))
    monkeypatch.setattr(node, "get_status", lambda: waiting)
    answer = server.request("/health")
    assert answer.status == 503
    assert "stage worker" in answer.json["error"]["message"]


def test_net_info_and_consensus_state(server):
    peer = server.result("net_info")["peers"][0]
    assert peer["bytes_in"] == str(2**40)
    assert peer["height"] is None
    assert server.result("consensus_state")["leader"] == 3


def test_a_block_by_height_and_by_hash(server, node):
    node.make_block()
    last = server.result("block")
    assert last["height"] == "1"
    assert last["final"] is True
    assert last["block_hash"] == "0x" + node.tree.final_hash.hex()
    assert last["time"].endswith("Z")
    assert len(last["certificate"]["signers"]) == 4
    for params in (
        {"height": 1},
        {"height": "1"},
        {"height": last["block_hash"]},
        {"hash": last["block_hash"]},
    ):
        assert server.result("block", **params) == last
    assert server.result("block_by_hash", hash=last["block_hash"]) == last
    assert server.result("header", height=1)["header"] == last["header"]
    assert server.result("commit", height=1)["certificate"] == last["certificate"]


def test_genesis_has_no_votes(server):
    assert server.result("block", height=0)["certificate"] is None
    assert server.error("commit", height=0)["code"] == -32001


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("block", {"height": 5}),
        ("block", {"hash": "0x" + "11" * 32}),
        ("header", {"height": 5}),
        ("tx", {"hash": "0x" + "11" * 32}),
        ("channel_get", {"channel_id": "0x" + "11" * 32}),
        ("packet_list", {"src": 0, "dst": 9}),
        ("state_proof", {"shard": 9, "key": "0x61"}),
        ("route", {"model": "gpt-9"}),
    ],
)
def test_what_is_not_there(server, method, params):
    assert server.error(method, **params)["code"] == -32001


def test_the_genesis_document_starts_the_same_chain(server, node):
    answer = server.result("genesis")
    assert answer["chain_id"] == "0x" + node.tree.spec.chain_id.hex()
    assert len(answer["genesis"]["validators"]) == 4


def test_validators_models_and_routes(server):
    validators = server.result("validators")
    assert validators["total_power"] == str(4000 * COIN)
    assert [v["name"] for v in validators["validators"]] == [
        f"validator-{i}" for i in range(4)
    ]
    assert [m["name"] for m in server.result("model_list")["models"]] == [
        "toy",
        "org/other",
    ]
    route = server.result("route")
    assert [(hop["start"], hop["end"]) for hop in route["hops"]] == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 8),
    ]
    assert server.error("route", model="org/other")["data"]["code"] == "no_route"


def test_an_account_is_shown_by_shard(server):
    account = server.result("account", address=ADDRESS["alice"])
    assert account["total"] == str(300 * COIN)
    assert [shard["balance"] for shard in account["shards"]] == [str(100 * COIN)] * 3
    empty = server.result("account", address=ADDRESS["dave"])
    assert empty["total"] == "0"


def test_a_state_proof_is_one_that_a_light_client_can_check(server, node):
    node.make_block()
    key = build_account_key(ALICE.public_key)
    answer = server.result("state_proof", shard=1, key="0x" + key.hex())
    proof = decode(StateProof, bytes.fromhex(answer["proof"][2:]))
    assert proof.value == node.tree.final.view.get(1, key)
    absent = server.result("state_proof", shard=1, key="0x" + b"nothing".hex())
    assert absent["value"] is None


def test_states_and_books_of_older_blocks(server, node):
    key = "0x" + build_account_key(ALICE.public_key).hex()
    before = server.result("state_proof", shard=1, key=key)
    for _ in range(3):
        node.make_block()
    older = server.result("state_proof", shard=1, key=key, height="2")
    proof = decode(StateProof, bytes.fromhex(older["proof"][2:]))
    assert (older["state_height"], older["height"]) == ("2", "3")
    assert proof.header.height == 2
    assert older["value"] == before["value"]
    error = server.error("state_proof", shard=1, key=key, height="4")
    assert error["code"] == -32001
    assert "no state after block 4: there are those of 0 to 3" in error["message"]
    supply = server.result("supply", height="1")
    assert (supply["height"], supply["conserved"]) == ("1", True)
    assert server.error("supply", height="9")["code"] == -32001


# -- transactions ----------------------------------------------------------------------


def transfer(world, amount=COIN, **changes):
    return world.sign(BOB, Transfer(DAVE.public_key, 0, amount), **changes)


def test_a_transaction_becomes_final(server):
    signed = transfer(World())
    final = server.result("broadcast_tx_commit", tx=hexed(signed))
    assert final["final"] is True
    assert final["height"] == "1"
    assert final["outcome"]["ok"] is True
    assert final["kind"] == "transfer"
    assert final["sender"] == ADDRESS["bob"]
    assert final["payload"] == {
        "recipient": ADDRESS["dave"],
        "shard": 0,
        "amount": str(COIN),
    }
    assert server.result("tx", hash=final["tx_id"]) == final
    assert server.result("account", address=ADDRESS["dave"])["total"] == str(COIN)
    history = server.result("account_txs", address=ADDRESS["dave"])
    assert history["transactions"] == [final]
    assert history["next"] is None


def test_a_transaction_waits_until_there_is_a_block(server, node):
    signed = transfer(World())
    tx_id = server.result("broadcast_tx_sync", tx=hexed(signed))["tx_id"]
    waiting = server.result("tx", hash=tx_id)
    assert (waiting["final"], waiting["height"], waiting["outcome"]) == (
        False,
        None,
        None,
    )
    pool = server.result("unconfirmed_txs")
    assert pool["total"] == 1
    assert pool["txs"][0]["tx_id"] == tx_id


def test_a_rule_that_refuses_is_an_outcome_and_costs_the_fee(server):
    world = World()
    opening = Opening(DAVE.public_key, SIGNER.public_key, COIN, 1000)
    first = world.sign(BOB, OpenChannels((opening,)), 1)
    again = world.sign(BOB, OpenChannels((opening,)), 1)
    server.result("broadcast_tx_sync", tx=hexed(first))
    final = server.result("broadcast_tx_commit", tx=hexed(again))
    assert final["outcome"]["ok"] is False
    assert final["outcome"]["code"]
    assert int(final["outcome"]["fee"]) > 0


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda w: encode(transfer(w))[:-1], "malformed"),
        (lambda w: encode(transfer(w)) + b"\x00", "malformed"),
        (lambda w: b"", "malformed"),
        (lambda w: bytes(9000), "too_large"),
        (lambda w: encode(transfer(w, chain_id=bytes(32))), "wrong_chain"),
        (lambda w: encode(transfer(w, shard=7)), "wrong_shard"),
        (lambda w: encode(transfer(w, nonce=10**6)), "nonce_gap"),
        (lambda w: encode(transfer(w, amount=10**6 * COIN)), "insufficient_funds"),
        (lambda w: encode(transfer(w, fee_limit=1)), "fee_above_limit"),
        (lambda w: encode(transfer(w))[:-64] + bytes(64), "bad_signature"),
        (lambda w: encode(transfer(w, version=2)), "wrong_version"),
    ],
)
@pytest.mark.parametrize("method", ["broadcast_tx_sync", "broadcast_tx_commit"])
def test_a_transaction_that_is_refused_says_why(server, build, reason, method):
    tx = "0x" + build(World()).hex()
    error = server.error(method, tx=tx)
    assert error["code"] == -32003
    assert error["data"]["code"] == "transaction_rejected"
    assert error["data"]["reason"] == reason


def test_a_double_spend_and_a_repetition(server):
    world = World()
    first = transfer(world)
    second = transfer(world, amount=2 * COIN, nonce=0)
    server.result("broadcast_tx_sync", tx=hexed(first))
    again = server.error("broadcast_tx_sync", tx=hexed(first))
    assert again["data"]["reason"] == "already_known"
    double = server.error("broadcast_tx_sync", tx=hexed(second))
    assert double["data"]["reason"] == "double_spend"


def test_a_nonce_that_was_used(server):
    world = World()
    server.result("broadcast_tx_commit", tx=hexed(transfer(world)))
    error = server.error("broadcast_tx_sync", tx=hexed(transfer(world, nonce=0)))
    assert error["data"]["reason"] == "wrong_nonce"


def test_async_takes_what_it_can_and_refuses_only_garbage(server):
    world = World()
    bad = transfer(world, chain_id=bytes(32))
    assert server.result("broadcast_tx_async", tx=hexed(bad))["tx_id"]
    assert server.result("unconfirmed_txs")["total"] == 0
    assert server.error("broadcast_tx_async", tx="0x00")["code"] == -32003


def test_a_chain_that_stands_still_is_a_timeout(server, node, monkeypatch):
    node.stalled = True
    monkeypatch.setattr("p2pchain.api.rpc.transaction_methods.COMMIT_TIMEOUT_S", 0)
    error = server.error("broadcast_tx_commit", tx=hexed(transfer(World())))
    assert error["code"] == -32002
    assert "still waits" in error["message"]


def test_a_batch_keeps_the_order_of_its_transactions(server):
    world = World()
    signed = [transfer(world) for _ in range(20)]
    calls = [
        call("broadcast_tx_sync", i, tx=hexed(each)) for i, each in enumerate(signed)
    ]
    answers = server.request("/", calls).json
    assert all("result" in answer for answer in answers)


# -- the wallet ------------------------------------------------------------------------

WALLET = [name for name in build_methods("0") if name.startswith("wallet_")]


@pytest.mark.parametrize("method", WALLET)
@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_the_wallet_needs_the_token(server, method, token):
    answer = server.request("/", call(method), token=token)
    assert answer.status == 401
    assert answer.json["error"]["code"] == 4100
    assert answer.json["error"]["data"]["code"] == "unauthorized"


def test_a_batch_without_the_token_still_reads(server):
    answers = server.request("/", [call("status", 1), call("wallet_address", 2)]).json
    assert "result" in answers[0]
    assert answers[1]["error"]["code"] == 4100


def test_money_is_sent_and_final(server):
    result = server.result(
        "wallet_send",
        token=TOKEN,
        recipient=ADDRESS["dave"],
        amount=str(5 * COIN),
        wait=True,
    )
    assert result["final"] is True
    assert server.result("tx", hash=result["tx_ids"][-1])["height"] == result["height"]
    assert server.result("account", address=ADDRESS["dave"])["total"] == str(5 * COIN)
    history = server.result("wallet_history", token=TOKEN)
    assert [tx["tx_id"] for tx in history["transactions"]] == result["tx_ids"]


def test_money_that_is_not_there(server):
    error = server.error(
        "wallet_send", token=TOKEN, recipient=ADDRESS["dave"], amount=str(2**62)
    )
    assert error["code"] == -32003
    assert error["data"]["code"] == "insufficient_funds"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"recipient": "nobody", "amount": 1}, "recipient"),
        ({"recipient": ADDRESS["dave"], "amount": -1}, "amount"),
        ({"recipient": ADDRESS["dave"], "amount": 0.5}, "amount"),
        ({"recipient": ADDRESS["dave"]}, "amount"),
        ({"recipient": ADDRESS["dave"], "amount": 1, "shard": 2**16}, "shard"),
        ({"recipient": ADDRESS["dave"], "amount": 1, "wait": "maybe"}, "wait"),
    ],
)
def test_a_payment_that_makes_no_sense(server, params, param):
    error = server.error("wallet_send", token=TOKEN, **params)
    assert error["data"]["param"] == param


def test_a_channel_from_opening_to_close(server):
    opened = server.result(
        "wallet_channel_open",
        token=TOKEN,
        payee=ADDRESS["bob"],
        deposit=str(COIN),
        wait=True,
    )
    channel = server.result("channel_get", channel_id=opened["channel_id"])
    assert channel["status"] == "OPEN"
    assert channel["payer"] == ADDRESS["alice"]
    assert channel["payee"] == ADDRESS["bob"]
    assert channel["deposit"] == str(COIN)
    own = server.result("wallet_channel_list", token=TOKEN)["channels"]
    assert own[0]["remaining"] == str(COIN)
    balance = server.result("wallet_balance", token=TOKEN)
    assert balance["in_channels"] == str(COIN)
    assert server.result("channel_list", address=ADDRESS["bob"])["channels"] == [
        {k: v for k, v in channel.items() if k not in ("height", "block_hash", "final")}
    ]
    server.result(
        "wallet_channel_close",
        token=TOKEN,
        channel_id=opened["channel_id"],
        wait=True,
    )
    closing = server.result("channel_get", channel_id=opened["channel_id"])
    assert closing["status"] == "CLOSING"
    assert closing["close_height"] != "0"


def test_closing_what_is_not_there(server):
    error = server.error(
        "wallet_channel_close", token=TOKEN, channel_id="0x" + "11" * 32
    )
    assert error["code"] == -32001


def test_a_rule_that_refuses_a_wallet_transaction_is_an_error_when_waited_for(server):
    params = {"payee": ADDRESS["bob"], "deposit": str(COIN), "wait": True}
    server.result("wallet_channel_open", token=TOKEN, **params)
    error = server.error("wallet_channel_open", token=TOKEN, **params)
    assert error["data"]["code"] == "transaction_rejected"


def test_answers_are_exact_for_large_numbers(server):
    answer = server.request("/", call("account", address=ADDRESS["alice"]))
    assert str(300 * COIN) in answer.body.decode()
    assert all(
        not isinstance(value, float)
        for value in json.loads(answer.body)["result"].values()
    )

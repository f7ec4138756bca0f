"""/api/v1 over a real chain with transfers, a provider, a channel and packets."""

from importlib.resources import files

import pytest
from chain_backend import ChainNode
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, MODEL, SIGNER
from channel_helpers import build_claim, build_work
from serving import get, serve

from chain.records.channel import (
    Settle,
)
from chain.records.transaction import compute_tx_id
from chain.records.transfer import Transfer
from primitives.address import encode_address
from primitives.codec import encode

ALICE_, BOB_, CAROL_, DAVE_ = (
    encode_address(key.public_key) for key in (ALICE, BOB, CAROL, DAVE)
)


@pytest.fixture(scope="module")
def node():
    """Twelve blocks: 60 transfers, a registration, a channel that was settled."""
    node = ChainNode()
    world = node.world
    node.add_provider(CAROL)
    opened = node.add_channel(BOB, CAROL, SIGNER)
    settle = Settle(node.channel_id, build_claim(node.channel_id), build_work())
    world.advance(world.sign(CAROL, settle, 1))
    node.many = world.advance(
        *(world.sign(ALICE, Transfer(DAVE.public_key, 0, 1)) for _ in range(60))
    )
    # From shard 0 to shard 2: a packet that the next block consumes.
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN)))
    world.advance(blocks=5)
    waiting = world.sign(ALICE, Transfer(DAVE.public_key, 0, 7))
    node.waiting = node.submit_transaction(encode(waiting))
    node.first = compute_tx_id(encode(opened))
    return node


@pytest.fixture(scope="module")
def server(node):
    with serve(node) as running:
        yield running


def walk(server, path, name):
    """Return all entries of a list, page by page."""
    found, after = [], ""
    while True:
        page = get(server, path + after)
        assert len(page[name]) <= 25
        found += page[name]
        if page["next"] is None:
            return found
        after = ("&" if "?" in path else "?") + "after=" + page["next"]


def test_the_tip(server, node):
    assert get(server, "/blocks/tip/height") == node.tree.final_height
    answer = server.request("/api/v1/blocks/tip/hash")
    assert answer.body.decode() == "0x" + node.tree.final_hash.hex()


def test_blocks_newest_first(server, node):
    blocks = walk(server, "/blocks?limit=5", "blocks")
    heights = [int(block["height"]) for block in blocks]
    assert heights == list(range(node.tree.final_height, -1, -1))
    assert blocks[0]["proposer_name"].startswith("validator-")
    assert all(block["final"] for block in blocks)


def test_a_block_by_height_or_hash_is_cached_for_ever(server, node):
    by_height = server.request(f"/api/v1/block/{node.many.height}")
    by_hash = server.request(f"/api/v1/block/0x{node.many.block_hash.hex()}")
    assert by_height.json == by_hash.json
    assert by_height.json["tx_count"] == 60
    assert "immutable" in by_height.headers["Cache-Control"]
    again = server.request(
        f"/api/v1/block/{node.many.height}",
        headers={"If-None-Match": by_height.headers["ETag"]},
    )
    assert (again.status, again.body) == (304, b"")
    other = server.request(
        f"/api/v1/block/{node.many.height}", headers={"If-None-Match": '"other"'}
    )
    assert other.status == 200


def test_what_moves_is_not_cached_for_ever(server):
    for path in ("/blocks", "/shards", "/mempool", f"/address/{ALICE_}"):
        answer = server.request("/api/v1" + path)
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["ETag"]


def test_a_block_s_transactions_in_pages(server, node):
    found = walk(server, f"/block/{node.many.height}/txs", "transactions")
    assert len(found) == 60
    assert [int(tx["nonce"]) for tx in found] == list(range(60))
    assert [tx["index"] for tx in found] == list(range(60))
    chunk = get(server, f"/block/{node.many.height}")["chunks"][0]
    assert chunk["tx_ids"] == [tx["tx_id"] for tx in found]


def test_an_address_with_its_history(server):
    account = get(server, f"/address/{DAVE_}")
    assert account["total"] == str(60 + COIN)
    assert account["shards"][2]["balance"] == str(COIN)
    history = walk(server, f"/address/{ALICE_}/txs", "transactions")
    assert len(history) == 61
    heights = [int(tx["height"]) for tx in history]
    assert heights == sorted(heights, reverse=True)


def test_a_final_transaction(server, node):
    tx = get(server, f"/tx/0x{node.first.hex()}")
    assert tx["kind"] == "open_channels"
    assert tx["final"] is True
    assert tx["outcome"]["ok"] is True
    status = get(server, f"/tx/0x{node.first.hex()}/status")
    assert (status["final"], status["height"]) == (True, tx["height"])


def test_a_waiting_transaction(server, node):
    tx = server.request(f"/api/v1/tx/0x{node.waiting.hex()}")
    assert tx.json["final"] is False
    assert tx.headers["Cache-Control"] == "no-cache"
    status = get(server, f"/tx/0x{node.waiting.hex()}/status")
    assert (status["final"], status["pending"]) == (False, True)
    pool = get(server, "/mempool")
    assert pool["total"] == 1
    assert pool["txs"][0]["tx_id"] == "0x" + node.waiting.hex()


def test_a_transaction_that_nobody_knows(server):
    name = "0x" + "11" * 32
    assert get(server, f"/tx/{name}", 404)["error"]["code"] == "not_found"
    status = get(server, f"/tx/{name}/status")
    assert (status["final"], status["pending"]) == (False, False)


def test_shards_and_their_packets(server):
    shards = get(server, "/shards")["shards"]
    assert [shard["shard"] for shard in shards] == [0, 1, 2]
    assert shards[0]["layers"] is None
    assert shards[1]["layers"] == [0, 4]
    assert shards[2]["model"] == "toy"
    link = next(link for link in shards[0]["links"] if link["dst"] == 2)
    assert link == {"dst": 2, "sent": "1", "consumed": "1", "backlog": "0"}
    assert get(server, "/shard/2")["layers"] == [4, 8]
    packet = get(server, "/packets/0/2")["packets"][0]
    assert packet["kind"] == "credit"
    assert packet["amount"] == str(COIN)
    assert packet["content"]["recipient"] == DAVE_
    assert int(packet["consumed_height"]) == int(packet["source_height"]) + 1
    kinds = {packet["kind"] for packet in get(server, "/packets/1/2")["packets"]}
    assert kinds == {"mirror"}


def test_posted_work(server, node):
    entry = get(server, "/work")["records"][0]
    assert entry["payee"] == CAROL_
    assert entry["paid"] == str(10 * 1000)
    assert entry["channel_id"] == "0x" + node.channel_id.hex()
    assert entry["work"]["tokens_out"] == "20"
    assert get(server, f"/work?payee={CAROL_}")["records"] == [entry]
    assert get(server, f"/work?payee={DAVE_}")["records"] == []
    assert get(server, "/receipts")["receipts"] == []


def test_channels(server, node):
    channel = get(server, f"/channels/0x{node.channel_id.hex()}")
    assert channel["settled"] == "10000"
    for party in (BOB_, CAROL_):
        listed = get(server, f"/channels?address={party}")["channels"]
        assert [c["channel_id"] for c in listed] == [channel["channel_id"]]
    assert get(server, f"/channels?address={DAVE_}")["channels"] == []


def test_providers_models_and_validators(server):
    provider = get(server, "/providers")["providers"][0]
    assert (provider["start"], provider["end"]) == (2, 6)
    assert provider["status"] == "ACTIVE"
    assert provider["account"] == CAROL_
    assert provider["name"] == "08" * 8
    assert provider["addresses"][0].startswith("p2p://")
    model = get(server, "/models")["models"][0]
    assert model["providers_by_layer"] == [0, 0, 1, 1, 1, 1, 0, 0]
    assert len(get(server, "/validators")["validators"]) == 4


def test_the_supply_adds_up(server):
    supply = get(server, "/supply")
    assert supply["conserved"] is True
    assert supply["held"] == supply["created"]
    assert int(supply["burned"]) > 0


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("5", "block"),
        ("{block}", "block"),
        ("{tx}", "transaction"),
        ("{waiting}", "transaction"),
        ("{channel}", "channel"),
        ("{model}", "model"),
        ("08" * 32, "provider"),
        (ALICE_, "address"),
        ("validator-2", "validator"),
        ("TOY", "model"),
    ],
)
def test_search_finds_what_a_text_could_mean(server, node, query, kind):
    query = query.format(
        block="0x" + node.many.block_hash.hex(),
        tx="0x" + node.first.hex(),
        waiting=node.waiting.hex(),
        channel="0x" + node.channel_id.hex(),
        model=MODEL.model_id.hex(),
    )
    results = get(server, f"/search?q={query}")["results"]
    assert [result["kind"] for result in results] == [kind]


@pytest.mark.parametrize("query", ["99", "zzz", "0x1234", "11" * 32, "9" * 100])
def test_search_finds_nothing(server, query):
    assert get(server, f"/search?q={query}")["results"] == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/block/99", 404, "not_found"),
        ("/block/0x" + "11" * 32, 404, "not_found"),
        ("/block/latest", 400, "invalid_params"),
        ("/block/-1", 400, "invalid_params"),
        ("/block/99/txs", 404, "not_found"),
        ("/tx/5", 400, "invalid_params"),
        ("/address/p2p1abc", 400, "invalid_params"),
        ("/address/" + "p2p1" + "q" * 500, 400, "invalid_params"),
        ("/channels", 400, "invalid_params"),
        ("/channels/0x" + "11" * 32, 404, "not_found"),
        ("/shard/9", 404, "not_found"),
        ("/shard/x", 400, "invalid_params"),
        ("/packets/0/9", 404, "not_found"),
        ("/blocks?after=zz", 400, "invalid_params"),
        ("/blocks?after=00", 400, "invalid_params"),
        ("/blocks?limit=x", 400, "invalid_params"),
        ("/blocks?page=2", 400, "invalid_params"),
        ("/blocks?after=", 200, None),
        ("/search", 400, "invalid_params"),
        ("/search?q=" + "x" * 1000, 400, "invalid_params"),
        ("/search?q=%ff%fe", 200, None),
        ("/block/%ff", 400, "invalid_params"),
        ("/blocks?%ff=1", 400, "invalid_params"),
        ("/nothing", 404, "invalid_request"),
        ("", 404, "invalid_request"),
    ],
)
def test_errors_are_json_with_a_status_and_a_word(server, path, status, code):
    body = get(server, path, status)
    if code is not None:
        assert body["error"]["code"] == code
        assert body["error"]["message"]


def test_the_openapi_document_describes_every_path(server):
    document = get(server, "/openapi.json")
    assert document["openapi"].startswith("3.")
    parameters = document["paths"]["/block/{block}/txs"]["get"]["parameters"]
    assert [(p["name"], p["in"], p["required"]) for p in parameters] == [
        ("block", "path", True),
        ("after", "query", False),
        ("limit", "query", False),
    ]
    for path, verbs in document["paths"].items():
        assert verbs["get"]["summary"], path
        named = {p["name"] for p in verbs["get"]["parameters"] if p["in"] == "path"}
        assert all("{" + name + "}" in path for name in named)


def test_only_reads(server):
    body = get(server, "/blocks", 405, body={})
    assert "POST" in body["error"]["message"]


# -- the page --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html"),
        ("/explorer.js", "text/javascript"),
        ("/blocks.js", "text/javascript"),
        ("/explorer.css", "text/css"),
    ],
)
def test_the_page_is_served_and_runs_nothing_of_others(server, path, content_type):
    answer = server.request(path)
    assert answer.status == 200
    assert answer.headers.get_content_type() == content_type
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_the_page_sets_text_and_never_markup():
    web = files("p2pchain.api.explorer") / "web"
    scripts = [file for file in web.iterdir() if file.name.endswith(".js")]
    assert len(scripts) > 10
    for script in scripts:
        text = script.read_text("utf-8")
        for danger in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
        ):
            assert danger not in text, script.name

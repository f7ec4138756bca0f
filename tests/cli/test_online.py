"""Commands that ask a node: a real server over a real chain with a toy model."""

import io
import json

import pytest
from chain_backend import ChainNode
from chain_world import BOB, CAROL, COIN, DAVE, MODEL

from p2pchain.api.errors import UnknownModel
from p2pchain.cli.main import main
from primitives.address import encode_address

BOB_, DAVE_ = encode_address(BOB.public_key), encode_address(DAVE.public_key)


@pytest.fixture
def node():
    return ChainNode()


@pytest.fixture
def ask(run):
    """Run a command with --json and return the document."""

    def ask(*words, code=0):
        return json.loads(run(*words, "--json", code=code).out)

    return ask


def test_status(run, ask, server):
    text = run("status").out
    assert "READY" in text
    assert server.url in text
    assert "stage [0, 2) READY" in text
    assert ask("status")["height"] == "0"


def test_peers(run, ask):
    assert "127.0.0.1:2" in run("peers").out
    assert ask("peers")["n_peers"] == 1


def test_models_and_route(run, ask):
    text = run("models").out
    assert "toy" in text
    assert "have no provider" in text
    assert [hop["name"] for hop in ask("route")["hops"]] == [
        "node0",
        "node1",
        "node2",
        "node3",
    ]
    assert "[6, 8)" in run("route", "toy").out
    said = run("route", "org/other", code=1)
    assert "layers [2, 4)" in said.err


def test_money_is_sent(run, ask):
    before = ask("wallet", "balance")
    assert before["total"] == str(300 * COIN)
    sent = ask("wallet", "send", DAVE_, "2.5")
    assert sent["final"] is True
    assert ask("wallet", "balance", DAVE_)["total"] == "2500000000"
    text = run("wallet", "balance").out
    assert "shard" in text
    assert "P2P" in text
    history = run("wallet", "history").out
    assert "transfer" in history
    assert sent["tx_ids"][0] in history
    assert ask("wallet", "history", DAVE_)["transactions"][0]["kind"] == "transfer"
    assert "not final yet" in run("wallet", "send", DAVE_, "1", "--no-wait").out


def test_a_history_has_pages(run, ask):
    for _ in range(3):
        ask("wallet", "send", DAVE_, "1", "--no-wait")
    ask("wallet", "send", DAVE_, "1")
    first = ask("wallet", "history", "--limit", 3)
    assert len(first["transactions"]) == 3
    rest = ask("wallet", "history", "--limit", 3, "--after", first["next"])
    assert len(rest["transactions"]) == 1
    assert f"--after {first['next']}" in run("wallet", "history", "--limit", 3).out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("wallet", "send", "nobody", "1"), "recipient"),
        (("wallet", "send", DAVE_, "1", "--shard", "70000"), "shard"),
        (("wallet", "send", DAVE_, "9000000000"), "atoms"),
        (("wallet", "balance", "nobody"), "address"),
        (("channel", "close", "0x1234"), "channel_id"),
        (("channel", "close", "0x" + "11" * 32), "no open channel"),
        (("rpc", "fly"), "no method"),
        (("chat", "hello", "--model", "gpt-9"), "no model"),
        (("chat", "poor"), "3 atoms"),
        (("chat", "nowhere"), "[4, 6)"),
        (("chat", "one break"), "node2 is gone"),
    ],
)
def test_a_refusal_is_one_with_the_reason(run, words, complaint):
    assert complaint in run(*words, code=1).err


def test_a_channel_from_opening_to_close(run, ask):
    opened = ask("channel", "open", BOB_, "0.01")
    assert opened["final"] is True
    listed = ask("channel", "list")["channels"]
    assert [c["channel_id"] for c in listed] == [opened["channel_id"]]
    assert "OPEN" in run("channel", "list").out
    assert ask("channel", "close", opened["channel_id"])["final"] is True
    assert "CLOSING" in run("channel", "list").out


def test_the_wallet_without_the_right_token(run, tmp_path):
    (tmp_path / "api_token").write_text("wrong")
    assert "api_token" in run("wallet", "balance", code=1).err
    assert "api_token" in run("chat", "hello", code=1).err
    (tmp_path / "api_token").unlink()
    assert "api_token" in run("wallet", "send", DAVE_, "1", code=1).err
    run("status")


def test_one_question(run, ask):
    said = run("chat", "one two three")
    assert said.out == "one two three\n"
    assert "node0 -> node1 -> node2 -> node3; 3 + 3 tokens" in said.err
    assert run("chat", "one two", "--quiet").err == ""
    answer = ask("chat", "one two three", "--max-tokens", 2)
    assert answer["content"] == "one two"
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2
    assert len(answer["p2pchain"]["hops"]) == 4


def test_a_question_on_stdin(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert run("chat", "-", "--quiet").out == "from a pipe\n"


def test_a_conversation(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("first question\n\nsecond\n"))
    said = run("chat", "--quiet")
    assert said.out == "first question\nsecond\n"


def test_a_conversation_goes_on_after_a_refusal(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("poor\nhello\n"))
    said = run("chat", "--quiet")
    assert said.out == "hello\n"
    assert "3 atoms" in said.err


def test_no_model_that_can_be_asked(run, node, monkeypatch):
    monkeypatch.setattr(node, "list_models", lambda: ())
    assert "the chain has none" in run("chat", "hello", code=1).err


def test_any_method(run, ask):
    assert json.loads(run("rpc", "block", '{"height": 0}').out)["height"] == "0"
    assert json.loads(run("rpc", "block", "[0]").out)["height"] == "0"
    assert json.loads(run("rpc", "rpc.discover").out)["openrpc"]
    error = ask("rpc", "block", '{"height": 99}', code=1)["error"]
    assert error["code"] == -32001


def test_an_error_as_json_is_one_document(ask):
    error = ask("wallet", "send", "nobody", "1", code=1)["error"]
    assert error["type"] == "RpcError"


def test_a_reader_that_closes_early_is_no_crash(run, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            return 99

    monkeypatch.setattr("sys.stdout", Closed())
    monkeypatch.setattr("os.dup2", lambda *_: None)
    run("status", code=1)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://nowhere.invalid", "ftp://x", "nonsense"]
)
def test_an_address_where_no_node_is(capsys, url):
    assert main(["--rpc", url, "status"]) == 1
    assert "no node answers" in capsys.readouterr().err


def test_a_server_that_is_no_node(capsys, server):
    assert main(["--rpc", server.url + "/api/v1", "status"]) == 1
    assert "p2pchain:" in capsys.readouterr().err


def test_doctor_predicts(run, ask):
    said = run("doctor").out
    assert "toy: 8 layers, about" in said
    assert "tokens/s" in said
    assert "[6, 8)" in said
    found = ask("doctor", "toy")
    assert found["model"] == "toy"
    assert found["weights_exact"] is False
    assert 0 < found["swarm"]["fastest_us"] <= found["swarm"]["slowest_us"]
    assert 0 < found["here"]["fastest_us"] <= found["here"]["slowest_us"]
    assert found["faster"] in ("here", "swarm", "equal")
    assert "layers [2, 4)" in run("doctor", "org/other", code=1).err
    assert found["route"] == "gateway"
    assert "serve   in native" in said


def test_doctor_does_without_a_gateway(run, ask, node, monkeypatch):
    """It takes what the chain shows, and says so."""

    def refuse(model):
        raise UnknownModel("this node serves no models")

    monkeypatch.setattr(node, "get_route", refuse)
    assert "have no active provider" in run("doctor", code=1).err
    for owner, layers in ((BOB, (0, 4)), (CAROL, (0, MODEL.layers))):
        node.add_provider(owner, layers)
    said = run("doctor").out
    assert "this node is no gateway" in said
    found = ask("doctor", MODEL.name)
    assert found["route"] == "chain"
    assert [(hop["start"], hop["end"]) for hop in found["hops"]] == [(0, MODEL.layers)]
    assert found["swarm"]["compute_us"] == 1500
    assert found["swarm"]["unmeasured"] == 1
    assert found["precision"] == "native"
    assert "no model nothing" in run("doctor", "nothing", code=1).err

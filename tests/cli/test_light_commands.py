"""`p2pchain light` and `wallet --light` against a server over a real chain."""

import json
from pathlib import Path

import pytest
from chain_world import COIN, DAVE
from epoch_world import BALANCE, PEOPLE
from light_node import LightNode
from serving import serve

from chain.ledger.stake import StakeStatus
from chain.records.keys import build_account_key
from genesis.files import save_genesis
from genesis.genesis import compute_chain_id
from p2pchain.cli.evidence import read_evidence
from p2pchain.cli.light_session import format_span
from p2pchain.cli.main import main
from p2pchain.cli.validator_proof import ValidatorProof, load_validator_proof
from p2pchain.errors import HomeError
from p2pchain.light import spending
from primitives.address import encode_address
from primitives.bls import BlsSecretKey
from wallet.keystore import LIGHT_COST, encrypt_account_key, save_keystore

PERSON = PEOPLE[9]
PERSON_ = encode_address(PERSON.address)
DAVE_ = encode_address(DAVE.public_key)


@pytest.fixture
def node() -> LightNode:
    node = LightNode()
    node.make_epochs(3)
    return node


@pytest.fixture
def home(tmp_path: Path, node) -> Path:
    """A home with a genesis and PERSON's keystore, of a node that does not run."""
    home = tmp_path / "home"
    (home / "keystore").mkdir(parents=True)
    save_genesis(node.genesis, home / "genesis.json")
    keystore = encrypt_account_key(
        PERSON.account, "passphrase", path="m", cost=LIGHT_COST
    )
    save_keystore(home / "keystore" / "account.json", keystore)
    (home / "passphrase").write_text("passphrase\n")
    (home / "api_token").write_text("sk-secret\n")
    return home


@pytest.fixture
def run(capsys, server, home):
    def run(*words, code=0, at=home, is_stale=False):
        # The chain of this test is of 2023.
        if not is_stale and ("--light" in words or words[0] == "light"):
            words = (*words, *(["--accept-stale"] if words[1] != "status" else []))
        got = main(["--home", str(at), "--rpc", server.url, *(str(w) for w in words)])
        said = capsys.readouterr()
        assert got == code, said.err
        return said

    return run


@pytest.fixture
def ask(run):
    def ask(*words, code=0, **options):
        return json.loads(run(*words, "--json", code=code, **options).out)

    return ask


def test_sync_says_what_is_trusted_and_how_old_it_was(run, ask, node, home):
    said = run("light", "sync")
    assert f"trust     {node.tree.epoch.epoch - 1}:0x" in said.out
    assert "older than the unbonding period" in said.err
    assert "the node is behind, or it hides newer ones" in said.err
    assert "in one step" in said.out
    node.make_epochs(2)
    document = ask("light", "sync")
    assert document["height"] == str(node.tree.final_height)
    assert document["age"] == "stale"
    assert document["file"] == str(home / "light.json")


def test_a_stale_trust_follows_nobody(run, node, home):
    said = run("light", "sync", code=1, is_stale=True)
    assert "--trust EPOCH:ROOT" in said.err
    assert not (home / "light.json").exists()
    # Somebody's word for a recent epoch makes it fresh.
    root = node.tree.epoch.validators.compute_root().hex()
    run("light", "sync", "--trust", f"2:{root}", is_stale=True)
    assert "fresh" in run("light", "status").out
    run("light", "sync", is_stale=True)
    said = run("wallet", "balance", "--light", is_stale=True)
    assert "total" in said.out


def test_a_trust_that_grew_stale_is_kept_as_it_is(run, home):
    run("light", "sync")
    before = (home / "light.json").read_bytes()
    assert "no stake left" in run("light", "sync", code=1, is_stale=True).err
    assert (home / "light.json").read_bytes() == before


def test_status_asks_nobody(run, ask, home, server):
    assert "light sync" in run("light", "status", code=1).err
    run("light", "sync")
    before = (home / "light.json").read_text()
    assert ask("--rpc", "http://127.0.0.1:1", "light", "status")["epoch"] == 2
    assert (home / "light.json").read_text() == before


def test_balances(run, ask):
    shown = ask("light", "balance", PERSON_)
    assert shown["total"] == str(BALANCE * COIN)
    assert [shard["shard"] for shard in shown["shards"]] == [0, 1, 2]
    assert shown["proven"] is True
    assert "proven at" in run("light", "balance", DAVE_).out
    assert ask("wallet", "balance", "--light")["address"] == PERSON_
    assert ask("wallet", "balance", DAVE_, "--light")["total"] == "0"


def test_stakes(run, ask):
    stake = ask("light", "stake", encode_address(PEOPLE[0].address))["stake"]
    assert (stake["name"], stake["status"]) == ("v0", "active")
    assert (
        "bonded     1000 P2P"
        in run("light", "stake", encode_address(PEOPLE[0].address)).out
    )
    assert ask("light", "stake", PERSON_)["stake"] is None
    assert "no stake" in run("light", "stake", PERSON_).out


def test_any_key(run, ask, node):
    key = build_account_key(PERSON.address).hex()
    value = node.tree.final.view.get(0, bytes.fromhex(key))
    assert ask("light", "state", "0", key)["value"] == "0x" + value.hex()
    assert ask("light", "state", "1", "0x" + key)["value"] is None
    assert "no such key" in run("light", "state", 1, key).out
    assert "no shard 9" in run("light", "state", 9, key, code=1).err


def test_a_payment(run, ask, node, home, monkeypatch):
    monkeypatch.setattr(spending.time, "sleep", lambda _: node.make_block())
    sent = ask("wallet", "send", DAVE_, "2.5", "--light")
    assert (sent["final"], sent["paid"]) == (True, True)
    assert ask("light", "balance", DAVE_)["total"] == "2500000000"
    assert (
        "not final yet" in run("wallet", "send", DAVE_, "1", "--light", "--no-wait").out
    )
    # The first still waits, and the node says so.
    assert "waits" in run("wallet", "send", DAVE_, "2", "--light", code=1).err
    node.make_block()
    assert "proven at block" in run("wallet", "send", DAVE_, "3", "--light").out


COLD = BlsSecretKey(bytes([77]).rjust(32, b"\0"))


@pytest.fixture
def proof(tmp_path) -> Path:
    """What a validator elsewhere gave to PERSON."""
    possession = COLD.prove_possession(PERSON.address)
    given = ValidatorProof("cold", PERSON.address, COLD.public_key, possession)
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(given.to_dict()))
    return path


def test_a_validator_lets_an_account_elsewhere_stake(home, tmp_path, capsys):
    words = ("init", "--genesis", home / "genesis.json", "--name", "cold")
    at = ("--home", tmp_path / "v", "--passphrase-file", home / "passphrase")
    assert main([str(word) for word in (*at, *words)]) == 0
    capsys.readouterr()
    assert main([str(word) for word in (*at, "validator", "proof", PERSON_)]) == 0
    path = tmp_path / "proof.json"
    path.write_text(capsys.readouterr().out)
    proof = load_validator_proof(path, PERSON.address)
    assert (proof.name, proof.owner) == ("cold", PERSON.address)
    assert main([str(word) for word in (*at, "keys", "show", "--json")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["validator_key"] == "0x" + proof.public_key.hex()
    with pytest.raises(HomeError, match="this account is"):
        load_validator_proof(path, DAVE.public_key)


def test_a_stake_of_an_account_elsewhere(run, ask, node, proof, monkeypatch):
    monkeypatch.setattr(spending.time, "sleep", lambda _: node.make_block())
    stake = ("wallet", "stake", "--light", "--validator", proof)
    said = run(*stake, "200")
    assert "proven at block" in said.out
    assert "cold, active" in said.out
    document = json.loads(proof.read_text())
    [found] = [s for s in node.queries.stakes.list_stakes() if s.name == "cold"]
    assert "0x" + found.public_key.hex() == document["public_key"]
    assert (found.account, found.bonded) == (PERSON.address, 200 * COIN)
    assert ask(*stake, "50")["stake"]["bonded"] == str(250 * COIN)
    # Final, and refused by a rule: the stake says so.
    assert "changed nothing" in run(*stake, "0", code=1).err
    out = ask("wallet", "unstake", "100", "--light")
    assert out["stake"]["unbonding"] == str(100 * COIN)
    assert ask("wallet", "unstake", "all", "--light")["stake"]["bonded"] == "0"
    assert "nothing bonded" in run("wallet", "unstake", "all", "--light", code=1).err
    assert "not final yet" in run(*stake, "150", "--no-wait").out
    assert "needed" in run(*stake, "999999999", code=1).err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"owner": DAVE_}, f"is for {DAVE_}"),
        ({"public_key": "0x" + "00" * 48}, "does not verify"),
        ({"proof_of_possession": "0x" + "11" * 96}, "does not verify"),
        ({"proof_of_possession": 5}, "is no file of"),
        ({"version": 2}, "version 2"),
        ({"owner": "nobody"}, "is no file of"),
        ({"name": "x" * 5000}, "too long"),
    ],
)
def test_a_validators_proof_that_is_none(run, proof, change, complaint):
    proof.write_text(json.dumps(json.loads(proof.read_text()) | change))
    said = run("wallet", "stake", "5", "--light", "--validator", proof, code=1)
    assert complaint in said.err


def test_staking_elsewhere_needs_all_of_it(run, proof, home):
    assert "go together" in run("wallet", "stake", "5", "--light", code=1).err
    said = run("wallet", "stake", "5", "--validator", proof, code=1)
    assert "go together" in said.err
    proof.unlink()
    said = run("wallet", "stake", "5", "--light", "--validator", proof, code=1)
    assert "is missing" in said.err
    assert "config.toml" in run("validator", "proof", PERSON_, code=1).err


def test_no_token_and_no_key_leaves_the_machine(run, server, home, monkeypatch):
    seen = []
    from p2pchain.client import RpcClient

    original = RpcClient.__init__

    def watch(self, url, token=None, timeout_s=30.0):
        seen.append(token)
        original(self, url, token, timeout_s)

    monkeypatch.setattr(RpcClient, "__init__", watch)
    run("light", "sync")
    run("wallet", "send", DAVE_, "1", "--light", "--no-wait")
    assert seen
    assert set(seen) == {None}


@pytest.mark.parametrize("begin", ["genesis", "chain-id", "trust"])
def test_ways_to_begin(run, ask, node, tmp_path, home, begin):
    empty = tmp_path / "empty"
    chain_id = compute_chain_id(node.genesis).hex()
    root = node.tree.epoch.validators.compute_root().hex()
    options = {
        "genesis": ("--genesis", home / "genesis.json"),
        "chain-id": ("--chain-id", "0x" + chain_id),
        "trust": ("--chain-id", chain_id, "--trust", f"2:0x{root}"),
    }[begin]
    said = run("light", "sync", code=1, at=empty)
    assert "--chain-id HEX" in said.err
    document = ask("light", "sync", *options, at=empty)
    assert document["height"] == str(node.tree.final_height)
    assert (document["bridged"] == "fresh") == (begin == "trust")
    # From then on the file is enough.
    assert ask("light", "sync", at=empty)["epoch"] == 2


def test_witnesses(run, ask, node, server):
    other = LightNode()
    with serve(other) as witness:
        other.make_epochs(3)  # the same chain, block for block
        assert other.tree.final_hash == node.tree.final_hash
        other.make_epochs(10)
        said = run("light", "sync", "--witness", witness.url)
        assert "40 blocks more" in said.err
        assert ask("light", "status")["height"] == str(other.tree.final_height)
        # The node itself is behind now, and what it shows is no news.
        said = run("light", "sync", "--rpc", witness.url, "--witness", server.url)
        assert "is behind" in said.err
    run("light", "sync", "--witness", "http://127.0.0.1:1", code=1)


def test_a_witness_on_another_chain(run, node, home):
    fork = LightNode()
    fork.world.now_ms += 5000
    fork.make_epochs(3)
    assert fork.tree.final_height == node.tree.final_height
    with serve(fork) as witness:
        said = run("light", "sync", "--witness", witness.url, code=1)
    assert "two final blocks at height 12" in said.err
    assert "convicts" in said.err
    document = json.loads((home / "fork-12.json").read_text())
    assert document["known"]["hash"] != document["shown"]["hash"]
    assert document["offence"] == "double_finalize"
    # One chain's node takes it as it is, and all who signed both are convicted.
    evidence = read_evidence(str(home / "fork-12.evidence"))
    node.world.finalize(node.world.build(evidence=(evidence,)))
    convicted = {
        "0x" + stake.public_key.hex()
        for stake in node.queries.stakes.list_stakes()
        if stake.status == StakeStatus.TOMBSTONED
    }
    assert convicted == set(document["guilty"])
    assert len(convicted) >= 3


def test_beginnings_that_are_none(run, node, tmp_path, home):
    empty = tmp_path / "empty"
    sync = ("light", "sync")
    said = run(*sync, "--chain-id", "11" * 32, code=1, at=empty)
    assert "does not have the hash" in said.err
    genesis = home / "genesis.json"
    said = run(*sync, "--genesis", genesis, "--chain-id", "11" * 32, code=1, at=empty)
    assert "does not have the hash" in said.err
    said = run(*sync, "--trust", "1:" + "22" * 32, code=1)
    assert "vouched for" in said.err
    run(*sync)
    said = run(*sync, "--chain-id", "11" * 32, code=1)
    assert "another network" in said.err
    (home / "light.json").write_text("{}")
    assert "damaged" in run(*sync, code=1).err


@pytest.mark.parametrize(
    "words",
    [
        ("light", "sync", "--trust", "1"),
        ("light", "sync", "--trust", "x:" + "11" * 32),
        ("light", "sync", "--trust", "99999999999:" + "11" * 32),
        ("light", "sync", "--chain-id", "0x11"),
        ("light", "balance", "nobody"),
        ("light", "state", "0", "zz"),
        ("light", "state", "70000", "00"),
        ("light", "state", "x", "00"),
    ],
)
def test_a_wrong_command_line(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(list(words))
    assert left.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_wrong_address_in_the_wallet(run):
    assert "address" in run("wallet", "balance", "nobody", "--light", code=1).err


def test_a_wallet_without_a_key(run, tmp_path, home):
    empty = tmp_path / "empty"
    empty.mkdir()
    genesis = home / "genesis.json"
    for words in (("balance",), ("send", DAVE_, "1")):
        said = run("wallet", *words, "--light", "--genesis", genesis, code=1, at=empty)
        assert "wallet new" in said.err


@pytest.mark.parametrize(
    ("span_ms", "text"),
    [
        (999, "0 s"),
        (119_999, "119 s"),
        (120_000, "2 min"),
        (7_200_000, "2 h"),
        (200_000_000, "2 days"),
    ],
)
def test_spans(span_ms, text):
    assert format_span(span_ms) == text

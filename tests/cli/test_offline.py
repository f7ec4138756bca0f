"""Commands that work on files: init, wallet new, keys show, and their refusals."""

import io
import json
import stat
from dataclasses import dataclass

import pytest

from genesis.files import load_genesis
from p2pchain.cli.main import main
from p2pchain.node.home.home import Home
from wallet.errors import WrongPassphrase
from wallet.keystore import decrypt_account_key, load_keystore

PASSPHRASE = "correct horse battery"


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the command as a shell would, away from the user's own home."""
    monkeypatch.setenv("P2PCHAIN_HOME", str(tmp_path / "default"))

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def passphrase_file(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network of two validators, made once."""
    folder = tmp_path_factory.mktemp("made") / "net"
    command = ["--home", str(folder), "init", "--genesis", "--devnet"]
    assert main([*command, "--validators", "2", "--port-base", "0"]) == 0
    return folder


# -- usage -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("fly",),
        ("wallet",),
        ("wallet", "fly"),
        ("init",),
        ("wallet", "send", "only-one"),
        ("wallet", "send", "address", "much"),
        ("init", "--genesis", "--validators", "0"),
        ("init", "--genesis", "--port-base", "99999"),
        ("start", "--host-layers", "4:4"),
        ("start", "--host-layers", "a:b"),
        ("start", "--rpc-port", "-1"),
        ("start", "--bls", "slow"),
        ("rpc", "status", "{"),
        ("rpc", "status", "5"),
        ("--nothing",),
    ],
)
def test_a_wrong_command_line_is_two(run, words):
    said = run(*words)
    assert said.code == 2
    assert "usage:" in said.err


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("wallet", "--help")])
def test_help_is_zero(run, words):
    assert run(*words).code == 0


def test_version_as_json(run):
    assert run("version", "--json").json == run("--json", "version").json


# -- init ------------------------------------------------------------------------------


def test_a_new_network_has_a_home_per_node(network):
    names = sorted(path.parent.name for path in network.glob("*/config.toml"))
    assert names == ["gateway", "node0", "node1"]
    genesis = load_genesis(network / "genesis.json")
    assert [v.name for v in genesis.validators] == ["node0", "node1"]
    for name in names:
        home = Home.open(network / name)
        assert load_genesis(home.genesis) == genesis
        assert home.load_config().name == name


def test_secrets_are_readable_by_their_owner_only(network):
    for name in ("api_token", "node_key", "passphrase", "keystore/account.json"):
        mode = (network / "node0" / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, name


def test_a_new_network_as_json(run, tmp_path):
    said = run(
        "--home",
        tmp_path / "net",
        "--json",
        *("init", "--genesis", "--devnet", "--validators", 1, "--port-base", 0),
    )
    assert said.code == 0
    assert [home["name"] for home in said.json["homes"]] == ["node0", "gateway"]
    assert all(len(home["mnemonic"].split()) == 24 for home in said.json["homes"])
    assert said.json["chain_id"].startswith("0x")


def test_nothing_is_overwritten(run, network):
    before = (network / "genesis.json").read_bytes()
    said = run("--home", network, "init", "--genesis", "--devnet")
    assert said.code == 1
    assert "not empty" in said.err
    assert (network / "genesis.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--validators", 1000), "from 1 to"),
        (("--model", "/nowhere/at/all"), "no such folder"),
        (("--name", "me"), "--genesis FILE"),
    ],
)
def test_a_network_that_cannot_be(run, tmp_path, words, complaint):
    said = run(*("--home", tmp_path / "net", "init", "--genesis", "--devnet"), *words)
    assert said.code == 1
    assert complaint in said.err
    assert not (tmp_path / "net" / "genesis.json").exists()


def test_a_home_that_joins(run, network, tmp_path, passphrase_file, monkeypatch):
    said = run(
        *("--home", tmp_path / "me", "--passphrase-file", passphrase_file, "--json"),
        *("init", "--genesis", network / "genesis.json", "--name", "me"),
    )
    assert said.code == 0, said.err
    home = Home.open(tmp_path / "me")
    assert load_genesis(home.genesis) == load_genesis(network / "genesis.json")
    keystore = load_keystore(home.account_keystore)
    key = decrypt_account_key(keystore, PASSPHRASE)
    with pytest.raises(WrongPassphrase):
        decrypt_account_key(keystore, "something else")
    shown = run("--home", tmp_path / "me", "--json", "keys", "show").json
    assert shown["account_key"] == "0x" + key.public_key.hex()


@pytest.mark.parametrize("text", ["", "{}", "[", '{"network": 5}', "[]"])
def test_a_genesis_that_is_none(run, tmp_path, passphrase_file, text):
    path = tmp_path / "genesis.json"
    path.write_text(text, encoding="latin-1")
    said = run(
        *("--home", tmp_path / "me", "--passphrase-file", passphrase_file),
        *("init", "--genesis", path),
    )
    assert said.code == 1
    assert "is no genesis" in said.err
    assert not (tmp_path / "me").exists()


@pytest.mark.parametrize("option", [("--validators", 4), ("--devnet",)])
def test_options_of_a_new_network_have_no_place_when_joining(
    run, network, tmp_path, option
):
    said = run(
        *("--home", tmp_path / "me", "init", "--genesis", network / "genesis.json"),
        *option,
    )
    assert said.code == 1
    assert f"{option[0]} is for a new network" in said.err


def test_a_genesis_that_is_missing(run, tmp_path, passphrase_file):
    said = run(
        *("--home", tmp_path / "me", "--passphrase-file", passphrase_file),
        *("init", "--genesis", tmp_path / "missing.json", "--json"),
    )
    assert said.code == 1
    assert "missing.json" in said.json["error"]["message"]


# -- the wallet on disk ----------------------------------------------------------------


def test_a_new_wallet_and_its_words(run, tmp_path, passphrase_file):
    home = ("--home", tmp_path / "me", "--passphrase-file", passphrase_file, "--json")
    made = run(*home, "wallet", "new", "--light")
    assert made.code == 0
    assert run(*home, "wallet", "address").json["address"] == made.json["address"]
    listed = run(*home, "wallet", "list").json["keystores"]
    assert [row["key"] for row in listed] == [made.json["address"]]
    words = tmp_path / "words"
    words.write_text(made.json["mnemonic"].upper() + "\n")
    again = ("--home", tmp_path / "again", *home[2:])
    restored = run(*again, "wallet", "new", "--light", "--restore", words)
    assert restored.json["address"] == made.json["address"]
    assert "mnemonic" not in restored.json
    other = ("--home", tmp_path / "other", *home[2:])
    second = run(*other, "wallet", "new", "--light", "--restore", words, "--account", 1)
    assert second.json["address"] != made.json["address"]


def test_a_key_is_never_overwritten(run, tmp_path, passphrase_file):
    home = ("--home", tmp_path / "me", "--passphrase-file", passphrase_file)
    run(*home, "wallet", "new", "--light")
    before = Home(tmp_path / "me").account_keystore.read_bytes()
    said = run(*home, "wallet", "new", "--light")
    assert said.code == 1
    assert "never overwritten" in said.err
    assert Home(tmp_path / "me").account_keystore.read_bytes() == before


@pytest.mark.parametrize("words", ["", "abandon " * 24, "one two three", "\xff\xfe"])
def test_words_that_are_no_phrase(run, tmp_path, passphrase_file, words):
    path = tmp_path / "words"
    path.write_bytes(words.encode("latin-1"))
    said = run(
        *("--home", tmp_path / "me", "--passphrase-file", passphrase_file),
        *("wallet", "new", "--light", "--restore", path),
    )
    assert said.code == 1
    assert not (tmp_path / "me" / "keystore").exists()


@pytest.mark.parametrize("text", ["", "short", "\n"])
def test_a_passphrase_that_protects_nothing(run, tmp_path, text):
    path = tmp_path / "passphrase"
    path.write_text(text)
    said = run(
        *("--home", tmp_path / "me", "--passphrase-file", path),
        *("wallet", "new", "--light"),
    )
    assert said.code == 1
    assert "at least 8" in said.err


def test_a_passphrase_file_that_is_missing(run, tmp_path):
    said = run(
        *("--home", tmp_path / "me", "--passphrase-file", tmp_path / "none"),
        *("wallet", "new", "--light"),
    )
    assert said.code == 1
    assert "--passphrase-file" in said.err


def test_nobody_to_ask_for_a_passphrase(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    said = run("--home", tmp_path / "me", "wallet", "new", "--light")
    assert said.code == 1
    assert "--passphrase-file" in said.err


def test_an_address_where_there_is_no_key(run, tmp_path):
    said = run("--home", tmp_path / "me", "wallet", "address")
    assert said.code == 1
    assert "wallet new" in said.err


def test_a_keystore_that_is_damaged(run, tmp_path, passphrase_file):
    home = ("--home", tmp_path / "me", "--passphrase-file", passphrase_file)
    run(*home, "wallet", "new", "--light")
    Home(tmp_path / "me").account_keystore.write_text("{}")
    said = run(*home, "wallet", "address")
    assert said.code == 1
    assert "not a usable keystore" in said.err


# -- homes -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "start", "peers", "models"])
def test_a_home_that_is_missing(run, tmp_path, command):
    said = run("--home", tmp_path / "none", command)
    assert said.code == 1
    assert "init --genesis" in said.err


def test_the_folder_of_a_network_is_no_home_but_names_them(run, network):
    said = run("--home", network, "status")
    assert said.code == 1
    assert "gateway, node0, node1" in said.err


def test_a_node_that_does_not_run(run, network):
    said = run("--home", network / "node0", "status", "--json")
    assert said.code == 1
    assert said.json["error"]["type"] == "NodeUnreachable"
    assert "start" in said.json["error"]["message"]


def test_a_home_with_a_damaged_runtime_file(run, network):
    runtime = Home(network / "node1").runtime
    runtime.write_text("{}")
    said = run("--home", network / "node1", "status")
    runtime.unlink()
    assert said.code == 1
    assert "damaged" in said.err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = 5", "name"),
        ("nam = 'x'", "nam"),
        ("[[", "config.toml"),
        ("name = 'x'\nrpc_port = 70000", "rpc_port"),
    ],
)
def test_settings_that_are_impossible(run, tmp_path, network, text, complaint):
    home = tmp_path / "broken"
    home.mkdir()
    (home / "config.toml").write_text(text)
    (home / "genesis.json").write_bytes((network / "genesis.json").read_bytes())
    said = run("--home", home, "start")
    assert said.code == 1
    assert complaint in said.err


def test_the_home_comes_from_the_environment(run, tmp_path, monkeypatch, network):
    monkeypatch.setenv("P2PCHAIN_HOME", str(network / "node0"))
    assert run("keys", "show", "--json").json["validator_key"].startswith("0x")

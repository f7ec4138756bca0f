"""`p2pchain db verify` on the database of a home."""

import json
from pathlib import Path

import pytest

from chain.storage.leveldb import LevelStore
from chain.tree.opening import open_tree
from genesis.files import load_genesis
from genesis.state import build_chain_spec
from p2pchain.cli.main import main
from p2pchain.node.home.home import Home
from primitives import bls


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Home:
    """A home of a network of one, made once."""
    folder = tmp_path_factory.mktemp("made") / "net"
    command = ["--home", str(folder), "init", "--genesis", "--devnet"]
    assert main([*command, "--validators", "1", "--port-base", "0"]) == 0
    first = min(folder.glob("*/config.toml"))
    return Home.open(first.parent)


@pytest.fixture
def verify(made, tmp_path, capsys):
    """Copy the home with a database of genesis, and return how to verify it."""
    home = Home(tmp_path / "home")
    home.path.mkdir()
    for name in ("config.toml", "genesis.json"):
        (home.path / name).write_bytes((made.path / name).read_bytes())
    with LevelStore(home.data) as store:
        open_tree(build_chain_spec(load_genesis(home.genesis)), store, bls)
    capsys.readouterr()

    def verify(*words: str) -> tuple[int, str, str]:
        code = main(["--home", str(home.path), *words, "db", "verify"])
        said = capsys.readouterr()
        return code, said.out, said.err

    verify.home = home
    return verify


def test_a_sound_database(verify):
    code, out, err = verify()
    assert code == 0
    assert "1 blocks up to 0" in out
    assert "sound: everything is what it has to be" in out
    assert "buckets of shard 1" in err
    code, out, _ = verify("--json")
    document = json.loads(out)
    assert (code, document["sound"], document["findings"]) == (0, True, [])
    assert all(shard["conserved"] for shard in document["shards"])
    assert document["shards"][0]["held"] == document["shards"][0]["created"] != "0"


def damage(data: Path) -> int:
    """Flip a bit of a bucket of the root shard; return its number."""
    with LevelStore(data) as store:
        key, stored = next(iter(store.iterate(b"S\0\0")))
        store.write({key: stored[:-1] + bytes([stored[-1] ^ 1])}, sync=True)
        return int.from_bytes(key[3:], "big")


def test_a_damaged_bucket(verify):
    index = damage(verify.home.data)
    code, out, _ = verify()
    assert code == 1
    assert f"bucket {index} of shard 0 is damaged" in out
    assert "NOT SOUND" in out
    code, out, _ = verify("--json")
    finding = json.loads(out)["findings"][0]
    assert (code, finding["what"], finding["bucket"]) == (1, "bucket", index)


def test_a_home_in_use_and_one_without_a_database(verify, made, capsys):
    with verify.home.lock():
        code, _, err = verify()
    assert (code, "is in use" in err) == (1, True)
    assert main(["--home", str(made.path), "db", "verify"]) == 1
    assert "has no database yet" in capsys.readouterr().err
    assert not list(made.data.iterdir())

"""Nodes that cannot start, and say why; and one that starts, stops and goes on."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from devnet_process import (
    read_rpc_url,
    run_cli,
    start_node,
    stop_node,
    wait_until,
)

from p2pchain.client import RpcClient

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network of one validator, never started."""
    folder = tmp_path_factory.mktemp("start") / "net"
    done = run_cli(
        "--home", str(folder), "init", "--genesis", "--validators", "1", "--devnet",
        "--port-base", "0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def home(network: Path, tmp_path: Path) -> Path:
    """A home of its own for every test."""
    return Path(shutil.copytree(network / "node0", tmp_path / "node0"))


def start(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return run_cli("--home", str(home), "start", *args)


def start_running(home: Path, *args: str) -> tuple[subprocess.Popen[bytes], RpcClient]:
    """Start a node and return it with a client once it listens."""
    process = start_node(home, "start", *args)
    return process, RpcClient(read_rpc_url(home))


def wait_height(client: RpcClient, height: int) -> None:
    def is_there() -> bool:
        return int(client.call("status")["height"]) >= height

    wait_until(is_there, f"block {height}")


def test_a_port_in_use_is_named_with_its_setting(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option in ("--rpc-port", "--p2p-port"):
            done = start(home, option, port)
            assert done.returncode == 1
            assert f"127.0.0.1:{port} is in use" in done.stderr
            assert option in done.stderr
            assert "Traceback" not in done.stderr


def test_a_wrong_passphrase_opens_nothing(home: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not the passphrase\n")
    done = start(home, "--passphrase-file", str(wrong))
    assert done.returncode == 1
    assert "passphrase" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("genesis.json", None, "genesis.json is missing"),
        ("genesis.json", "{", "not JSON"),
        ("config.toml", None, "config.toml is missing"),
        ("config.toml", "name = 5", "name must be str"),
        ("config.toml", 'name = "x"\ncolour = "red"', "unknown setting 'colour'"),
        ("keystore/account.json", None, "account.json is missing"),
        ("keystore/account.json", "[]", "account.json"),
        ("keystore/validator.json", None, "validator.json is missing"),
        ("node_key", "12", "damaged"),
        ("node_key", None, "missing or damaged"),
    ],
)
def test_a_damaged_home_says_what_is_wrong(home, name, content, complaint) -> None:
    path = home / name
    path.unlink() if content is None else path.write_text(content)
    done = start(home)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_database_says_so(home: Path) -> None:
    process, client = start_running(home, "--host-layers", "0:1")
    wait_height(client, 2)
    assert stop_node(process) == 0
    for path in (home / "data").glob("MANIFEST-*"):
        path.write_bytes(b"not a manifest")
    done = start(home)
    assert done.returncode == 1
    assert "cannot open the database" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--host-layers", "6:9"), "p2pchain-toy has 8"),
        (("--model", "/nowhere"), "no such folder"),
        (("--peers", "p2p://12@nowhere:1"), "p2p://12@nowhere:1"),
    ],
)
def test_settings_that_cannot_be_served(home, args, complaint) -> None:
    done = start(home, *args)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_has_one_process(home: Path) -> None:
    process, _ = start_running(home)
    try:
        second = start(home)
        assert second.returncode == 1
        assert f"in use by process {process.pid}" in second.stderr
    finally:
        assert stop_node(process) == 0
    assert not (home / "node.json").exists()


def test_a_validator_without_its_log_does_not_vote(home: Path) -> None:
    (home / "wal" / "votes").unlink()
    process, client = start_running(home)
    try:
        state = client.call("consensus_state")
        assert state["is_voting"] is False
        assert state["mute_reason"]
        assert client.call("status")["ready"] is False
    finally:
        process.kill()
        process.wait()


def test_a_killed_node_goes_on_from_its_last_final_block(home: Path) -> None:
    process, client = start_running(home)
    wait_height(client, 3)
    process.kill()
    process.wait()
    process, client = start_running(home)
    try:
        height = int(client.call("status")["height"])
        assert height >= 3
        wait_height(client, height + 1)
    finally:
        assert stop_node(process) == 0


def test_a_node_stops_when_its_parent_is_gone(home: Path) -> None:
    parent = """
import os, subprocess, sys
read_end, write_end = os.pipe()
child = subprocess.Popen(
    [sys.executable, "-m", "p2pchain", "--home", sys.argv[1], "start",
     "--parent-fd", str(read_end)], pass_fds=(read_end,), stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(home)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until((home / "node.json").is_file, "the node to listen")
    process.communicate()
    wait_until(lambda: not (home / "node.json").exists(), "the node to stop")

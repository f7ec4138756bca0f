"""`p2pchain start`: what keeps a node from starting, as its operator sees it."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from p2pchain.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home that joined a network: no layers, no vote."""
    folder = tmp_path_factory.mktemp("start")
    passphrase = folder / "passphrase"
    passphrase.write_text("long enough to count")
    network, home = folder / "net", folder / "home"
    init = ["init", "--genesis"]
    assert main(["--home", str(network), *init, "--devnet", "--validators", "1"]) == 0
    common = ["--home", str(home), "--passphrase-file", str(passphrase)]
    assert main([*common, *init, str(network / "genesis.json")]) == 0
    (home / "passphrase").write_text("long enough to count")
    return home


def start(home, *options):
    return subprocess.run(
        [sys.executable, "-m", "p2pchain", "--home", str(home), "start", *options],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("option", ["--rpc-port", "--p2p-port"])
def test_a_taken_port_names_the_setting(home, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = start(home, option, str(port))
    assert ended.returncode == 1
    assert f"127.0.0.1:{port} is in use" in ended.stderr
    assert option in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_passphrase(home, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("something else entirely")
    ended = start(home, "--passphrase-file", str(wrong))
    assert ended.returncode == 1
    assert "passphrase does not open" in ended.stderr


def test_a_validator_that_genesis_does_not_know(home):
    ended = start(home, "--validator")
    assert ended.returncode == 1
    assert "start without --validator" in ended.stderr


def test_a_node_starts_answers_and_stops(home):
    """Also: its home is its own while it runs, and the command line finds it."""
    runtime = home / "node.json"
    runtime.unlink(missing_ok=True)
    read_end, write_end = os.pipe()
    node = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "p2pchain",
            "--home",
            str(home),
            "start",
            "--log",
            "json",
        ],
        stderr=write_end,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    os.close(write_end)
    try:
        with os.fdopen(read_end) as log:
            first = json.loads(log.readline())
            assert first["message"]
            assert json.loads(runtime.read_text())["pid"] == node.pid
            assert main(["--home", str(home), "status", "--json"]) == 0
            second = start(home)
            assert second.returncode == 1
            assert f"in use by process {node.pid}" in second.stderr
            node.send_signal(signal.SIGTERM)
            log.read()
        assert node.wait(30) == 0
    finally:
        node.kill()
        node.wait()

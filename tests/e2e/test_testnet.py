"""`p2pchain testnet`: the examples pass, and what goes wrong is said and cleaned up."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from devnet_process import STOP_S, run_cli, wait_ended, wait_until

EXAMPLES = Path(__file__).parents[2] / "docs" / "testnets"
RUN_S = 420
"""What a run gets on a busy machine; a bound, not a measurement."""


def run_testnet(manifest: Path, *args: str) -> dict:
    """Run a manifest and return its report."""
    done = run_cli("--json", *args, "testnet", "run", str(manifest), timeout=RUN_S)
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    assert report["ok"], f"{report['reason']}\n{done.stderr[-6000:]}"
    assert all(check["ok"] for check in report["checks"])
    return report


def test_the_short_example_passes_and_leaves_nothing(tmp_path) -> None:
    report = run_testnet(EXAMPLES / "short.toml")
    assert len(report["checks"]) >= 7
    assert report["load"]["final"] > 20
    assert {node["name"] for node in report["nodes"]} >= {"node0", "late"}
    wait_ended(*(node["pid"] for node in report["nodes"]))
    assert not Path(report["folder"]).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["staking.toml", "rough.toml"])
def test_the_long_examples_pass(name: str) -> None:
    run_testnet(EXAMPLES / name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_generated_manifests_pass(seed: int, tmp_path) -> None:
    done = run_cli("testnet", "generate", "--seed", str(seed), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    run_testnet(tmp_path / f"seed-{seed}.toml")


def test_a_wrong_manifest_is_explained(tmp_path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('name = "wrong"\nblocks = 5\nnode = []\n')
    done = run_cli("testnet", "run", str(path))
    assert done.returncode == 1
    assert "0 nodes have a stake; 4 to 7 are run" in done.stderr
    assert done.stdout == ""


def start_run(manifest: Path, home: Path) -> subprocess.Popen[str]:
    """Start a run and return it once all its nodes listen."""
    process = subprocess.Popen(
        [sys.executable, "-m", "p2pchain", "--home", str(home), "--json", "testnet",
         "run", str(manifest)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: len(list(home.glob("*/node.json"))) == 4, "four nodes", RUN_S)
    return process


def read_pids(home: Path) -> list[int]:
    return [json.loads(p.read_text())["pid"] for p in home.glob("*/node.json")]


QUIET = 'name = "quiet"\nblocks = 5000\n' + "".join(
    f'[[node]]\nname = "node{index}"\nstake = 100\n' for index in range(4)
)


def is_stopped(pid: int) -> bool:
    """Tell whether all threads are; those that end meanwhile are looked for again."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    states = [(thread / "stat").read_text().rsplit(")", 1)[1] for thread in threads]
    return all(state.split()[0] == "T" for state in states)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_a_run_ends_its_nodes_end_too(number: int, tmp_path) -> None:
    """SIGKILL is the hard one: a paused node must not stay behind either."""
    manifest, home = tmp_path / "quiet.toml", tmp_path / "net"
    manifest.write_text(QUIET)
    process = start_run(manifest, home)
    pids = read_pids(home)
    os.kill(pids[0], signal.SIGSTOP)
    # The kernel continues only what has stopped, and threads stop one by one.
    wait_until(lambda: is_stopped(pids[0]), "the node to stop")
    process.send_signal(number)
    process.communicate(timeout=STOP_S)
    assert process.returncode == (1 if number != signal.SIGKILL else -signal.SIGKILL)
    wait_ended(*pids)


def test_a_node_that_dies_by_itself_fails_the_run(tmp_path) -> None:
    manifest, home = tmp_path / "quiet.toml", tmp_path / "net"
    manifest.write_text(QUIET)
    process = start_run(manifest, home)
    pids = read_pids(home)
    os.kill(pids[0], signal.SIGKILL)
    stdout, _ = process.communicate(timeout=STOP_S)
    report = json.loads(stdout)
    assert process.returncode == 1
    assert not report["ok"]
    assert "ended by itself with code -9" in report["reason"]
    wait_ended(*pids)

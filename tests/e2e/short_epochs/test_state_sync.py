"""A validator whose disk is lost comes back with a state, not with a replay."""

import json
import shutil
from pathlib import Path

import pytest
from devnet_process import EPOCH_BLOCKS, run_cli, wait_until


def change_setting(home: Path, name: str, value: object) -> None:
    path = home / "config.toml"
    lines = [
        line for line in path.read_text().splitlines() if not line.startswith(name)
    ]
    path.write_text("\n".join([*lines, f"{name} = {json.dumps(value)}"]) + "\n")


def wipe(home: Path) -> None:
    """Lose everything but what its owner has a copy of."""
    for name in ("data", "wal", "state-sync"):
        shutil.rmtree(home / name, ignore_errors=True)
    (home / "data").mkdir()
    (home / "wal").mkdir()


def test_a_wiped_validator_is_back_without_a_replay(net) -> None:
    node = net.get_node("node1")
    home = Path(node["home"])
    net.kill("node1")
    wipe(home)
    change_setting(home, "snapshot_after_epochs", 1)
    net.wait_height(net.height() + 4 * EPOCH_BLOCKS)
    height = net.height()

    net.restart("node1")
    net.wait_height(height, "node1")
    status = net.rpc("node1").call("status")
    first = int(status["first_height"])
    assert first > 0
    assert first % EPOCH_BLOCKS == 0
    assert first > height - 4 * EPOCH_BLOCKS
    # What it has is what the others have.
    for height in (first, int(status["height"])):
        assert net.read_block_hash(height, "node1") == net.read_block_hash(height)
    # It has nothing of before, and says so.
    with pytest.raises(Exception, match=f"history begins at {first}"):
        net.rpc("node1").call("block", height=first - 1)
    shown = run_cli("--home", str(home), "status")
    assert f"from block {first}, with a snapshot" in shown.stdout
    log = (home / "node.log").read_text()
    assert "taking the state at block" in log
    wait_until(lambda: not (home / "state-sync").exists(), "its parts to be cleared")

    # Its log is lost too: it says nothing until nobody waits for what it once said.
    assert "this validator does not vote yet" in log
    wait_until(
        lambda: not net.rpc("node1").call("status")["validator"]["mute_reason"],
        "node1 to vote again",
    )
    target = net.height() + EPOCH_BLOCKS
    net.wait_height(target, "node1")

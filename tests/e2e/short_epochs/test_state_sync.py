"""A validator whose disk is lost comes back with a state, not with a replay."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from devnet_process import EPOCH_BLOCKS, EPOCHS_S, run_cli, wait_until


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
    os.kill(node["pid"], signal.SIGKILL)
    wipe(home)
    change_setting(home, "snapshot_after_epochs", 1)
    net.wait_height(net.height() + 4 * EPOCH_BLOCKS)
    height = net.height()

    net.restart("node1")
    wait_until(lambda: net.height("node1") >= height, "node1 to be back", EPOCHS_S)
    status = net.rpc("node1").call("status")
    first = int(status["first_height"])
    assert first > 0
    assert first % EPOCH_BLOCKS == 0
    assert first > height - 4 * EPOCH_BLOCKS
    # What it has is what the others have.
    for height in (first, int(status["height"])):
        net.wait_height(height)
        found = net.rpc("node1").call("block", height=height)["block_hash"]
        assert found == net.rpc().call("block", height=height)["block_hash"]
    # It has nothing of before, and says so.
    with pytest.raises(Exception, match=f"history begins at {first}"):
        net.rpc("node1").call("block", height=first - 1)
    shown = run_cli("--home", str(home), "status")
    assert f"from block {first}, with a snapshot" in shown.stdout
    log = (home / "node.log").read_text()
    assert "taking the state at block" in log
    assert not (home / "state-sync").exists()

    # Its log is lost too: it says nothing until nobody waits for what it once said.
    assert status["validator"]["mute_reason"]
    wait_until(
        lambda: not net.rpc("node1").call("status")["validator"]["mute_reason"],
        "node1 to vote again",
        EPOCHS_S,
    )
    target = net.height() + EPOCH_BLOCKS
    net.wait_height(target, "node1")

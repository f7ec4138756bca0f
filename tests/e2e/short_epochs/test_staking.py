"""A fifth validator from an empty folder: joins, stakes, votes, earns, leaves."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from devnet_process import (
    EPOCHS_S,
    UNBONDING_EPOCHS,
    RunningDevnet,
    run_cli,
    wait_until,
)

from p2pchain.client import RpcClient, RpcError
from primitives.types import ATOMS_PER_COIN

COIN = ATOMS_PER_COIN
STAKE = 8000


@dataclass
class Newcomer:
    """A node that was made and started as its owner would do it."""

    home: Path
    passphrase: Path
    process: subprocess.Popen[bytes]

    def run(self, *args: str) -> Any:
        """Run a command on its home and return the JSON it prints."""
        done = run_cli("--home", str(self.home), "--json", *args)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def is_ready(self) -> bool:
        """Tell whether it is at the chain's end; it listens anew with a snapshot."""
        try:
            return bool(self.rpc.call("status")["ready"])
        except (FileNotFoundError, RpcError):
            return False

    @property
    def rpc(self) -> RpcClient:
        runtime = json.loads((self.home / "node.json").read_text())
        return RpcClient(runtime["rpc"])


@pytest.fixture(scope="module")
def newcomer(net: RunningDevnet, tmp_path_factory) -> Iterator[Newcomer]:
    """A fifth node that follows the chain, without a stake."""
    folder = tmp_path_factory.mktemp("five")
    home, passphrase = folder / "five", folder / "passphrase"
    passphrase.write_text("a passphrase of its own\n")
    options = ("--home", str(home), "--passphrase-file", str(passphrase))
    genesis = Path(net.gateway["home"]) / "genesis.json"
    # One, as in the README; its votes reach the others because it finds them on chain.
    node = Path(net.validators[0]["home"]) / "node.json"
    peer = json.loads(node.read_text())["p2p"]
    done = run_cli(*options, "init", "--genesis", str(genesis), "--peers", peer)
    assert done.returncode == 0, done.stderr
    with (home / "node.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "p2pchain", *options, "start"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until((home / "node.json").is_file, "the newcomer to listen")
        newcomer = Newcomer(home, passphrase, process)
        wait_until(newcomer.is_ready, "the newcomer to catch up")
        yield newcomer
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    assert code == 0


def find_seat(
    net: RunningDevnet, account: str, epoch: int | None = None
) -> dict[str, Any] | None:
    """Return what another node says of the account's seat in an epoch."""
    params = {} if epoch is None else {"epoch": epoch}
    validators = net.rpc("node0").call("validators", **params)["validators"]
    return next((v for v in validators if v["account"] == account), None)


def is_attending(net: RunningDevnet, account: str) -> bool:
    """Tell whether blocks of the running epoch have recorded its vote."""
    seat = find_seat(net, account)
    return seat is not None and (seat["attendance"] or 0) > 0


def wait_epoch(net: RunningDevnet, epoch: int) -> None:
    """Wait until the set of `epoch` is chosen."""

    def is_chosen() -> bool:
        return net.rpc("node0").call("epoch")["epoch"] >= epoch - 1

    wait_until(is_chosen, f"the validators of epoch {epoch}", EPOCHS_S)


def list_stakes(net: RunningDevnet, account: str) -> list[dict[str, Any]]:
    """Return the account's stake, if it has one, by another node."""
    stakes = net.rpc("node1").call("stake_list")["stakes"]
    return [stake for stake in stakes if stake["account"] == account]


def wait_paid(newcomer: Newcomer, amount: int) -> None:
    """Wait until the newcomer's own node has the block that pays it."""

    def is_paid() -> bool:
        return int(newcomer.run("wallet", "balance")["total"]) >= amount

    wait_until(is_paid, "the payment at the newcomer's own node", EPOCHS_S)


def wait_voting(net: RunningDevnet, newcomer: Newcomer, account: str) -> None:
    """Wait until the newcomer votes, is attended to and was rewarded.

    On a busy machine it may miss half of an epoch, whose four blocks take a second or
    two; it is down then, and does what an owner does: it bonds one more coin.
    """

    def is_rewarded() -> bool:
        (stake,) = list_stakes(net, account)
        if stake["status"] == "DOWN":
            newcomer.run("wallet", "stake", "1")
        return int(stake["rewarded"]) > 0

    def is_voting() -> bool:
        is_rewarded()
        own = newcomer.rpc.call("status")["validator"]
        is_seated = own["is_voting"] and own["until_epoch"] is None
        return is_seated and is_attending(net, account)

    wait_until(is_rewarded, "a reward", EPOCHS_S)
    wait_until(is_voting, "votes of the newcomer", EPOCHS_S)


def test_from_an_empty_folder_to_a_validator_and_out_again(net, newcomer) -> None:
    account = newcomer.run("wallet", "address")["address"]
    seat = newcomer.run("status")["validator"]
    assert (seat["index"], seat["from_epoch"], seat["stake"]) == (None, None, None)
    refused = run_cli("--home", str(newcomer.home), "wallet", "stake", str(STAKE))
    assert refused.returncode == 1
    assert "needed: 8000.0" in refused.stderr

    net.rpc(token=True).call(
        "wallet_send", recipient=account, amount=str(9000 * COIN), wait=True
    )
    wait_paid(newcomer, 9000 * COIN)
    staked = newcomer.run("wallet", "stake", str(STAKE))
    assert staked["final"] is True
    assert staked["stake"]["bonded"] == str(STAKE * COIN)
    wait_epoch(net, staked["epoch"] + 2)
    assert find_seat(net, account, staked["epoch"] + 1) is None
    seat = find_seat(net, account, staked["epoch"] + 2)
    assert seat is not None
    assert (seat["name"], seat["index"], seat["power"]) == (
        "five",
        4,
        str(STAKE * COIN),
    )

    wait_voting(net, newcomer, account)
    (stake,) = list_stakes(net, account)
    bonded, earned = int(stake["bonded"]), int(stake["rewarded"])
    balance = newcomer.run("wallet", "balance")
    assert int(balance["total"]) > 9000 * COIN - bonded + earned - COIN
    assert balance["stake"]["bonded"] == str(bonded)

    out = newcomer.run("wallet", "unstake", "all")
    assert out["stake"]["bonded"] == "0"
    (entry,) = out["stake"]["unbonding"]
    assert entry["amount"] == str(bonded)
    assert entry["due_epoch"] - UNBONDING_EPOCHS in (out["epoch"], out["epoch"] - 1)
    wait_epoch(net, out["epoch"] + 2)
    assert find_seat(net, account, out["epoch"] + 2) is None

    wait_until(lambda: not list_stakes(net, account), "the payout", EPOCHS_S)
    status = newcomer.run("status")
    assert status["ready"] is True
    assert status["validator"]["is_voting"] is False
    assert int(newcomer.run("wallet", "balance")["total"]) > 8999 * COIN
    validate_books(net, newcomer)


def validate_books(net: RunningDevnet, newcomer: Newcomer) -> None:
    """Everybody has the same blocks, and every atom is somewhere."""
    height = net.height("node0")

    def has_block() -> bool:
        return int(newcomer.rpc.call("status")["height"]) >= height

    wait_until(has_block, f"block {height}", EPOCHS_S)
    hashes = {
        rpc.call("block", height=height)["block_hash"]
        for rpc in (net.rpc("node0"), net.rpc("node3"), newcomer.rpc)
    }
    assert len(hashes) == 1
    supply = newcomer.rpc.call("supply")
    assert supply["conserved"] is True
    assert int(supply["minted"]) > 0


def show(newcomer: Newcomer, *args: str) -> str:
    done = run_cli("--home", str(newcomer.home), *args)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_commands_that_show_the_set(net, newcomer) -> None:
    text = show(newcomer, "validators")
    assert text.startswith("epoch ")
    assert "node3" in text
    assert "%" in text
    assert "node0" in show(newcomer, "validators", "0")
    assert "earned" in show(newcomer, "stakes")
    assert "epoch " in show(newcomer, "status")

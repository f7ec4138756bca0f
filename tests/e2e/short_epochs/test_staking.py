"""A fifth validator from an empty folder: joins, stakes, votes, earns, leaves."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from devnet_process import (
    UNBONDING_EPOCHS,
    WAIT_S,
    RunningDevnet,
    read_rpc_url,
    run_cli,
    start_node,
    stop_node,
    wait_until,
)

from p2pchain.client import RpcClient
from primitives.types import ATOMS_PER_COIN

COIN = ATOMS_PER_COIN
STAKE = 8000


@dataclass
class Newcomer:
    """A node that was made and started as its owner would do it."""

    home: Path

    def run(self, *args: str) -> Any:
        """Run a command on its home and return the JSON it prints."""
        done = run_cli("--home", str(self.home), "--json", *args)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def rpc(self) -> RpcClient:
        return RpcClient(read_rpc_url(self.home), timeout_s=WAIT_S)


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
    process = start_node(home, *options[2:], "start")
    try:
        newcomer = Newcomer(home)
        # It listens anew with a snapshot.
        wait_until(lambda: newcomer.rpc.call("status")["ready"], "it to catch up")
        yield newcomer
    finally:
        code = stop_node(process)
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

    wait_until(is_chosen, f"the validators of epoch {epoch}")


def list_stakes(rpc: RpcClient, account: str) -> list[dict[str, Any]]:
    """Return the account's stake by a node, if it has one."""
    stakes = rpc.call("stake_list")["stakes"]
    return [stake for stake in stakes if stake["account"] == account]


def wait_paid(newcomer: Newcomer, amount: int) -> None:
    """Wait until the newcomer's own node has the block that pays it."""

    def is_paid() -> bool:
        return int(newcomer.run("wallet", "balance")["total"]) >= amount

    wait_until(is_paid, "the payment at the newcomer's own node")


def wait_voting(net: RunningDevnet, newcomer: Newcomer, account: str) -> None:
    """Wait until the newcomer votes, is attended to and was rewarded.

    On a busy machine it may miss half of an epoch, whose four blocks take a second or
    two; it is down then, and does what an owner does: it bonds one more coin.
    """

    def is_rewarded() -> bool:
        (stake,) = list_stakes(newcomer.rpc, account)
        if stake["status"] == "DOWN":
            newcomer.run("wallet", "stake", "1")
        return int(stake["rewarded"]) > 0

    def is_voting() -> bool:
        is_rewarded()
        own = newcomer.rpc.call("status")["validator"]
        is_seated = own["is_voting"] and own["until_epoch"] is None
        return is_seated and is_attending(net, account)

    wait_until(is_rewarded, "a reward")
    wait_until(is_voting, "votes of the newcomer")


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
    (stake,) = list_stakes(newcomer.rpc, account)
    bonded, earned = int(stake["bonded"]), int(stake["rewarded"])
    balance = newcomer.run("wallet", "balance")
    assert int(balance["total"]) > 9000 * COIN - bonded + earned - COIN
    assert balance["stake"]["bonded"] == str(bonded)

    out = newcomer.run("wallet", "unstake", "all")
    assert out["stake"]["bonded"] == "0"
    (entry,) = out["stake"]["unbonding"]
    assert entry["amount"] == str(bonded)
    # One less if the last block of an epoch holds it.
    assert entry["due_epoch"] - UNBONDING_EPOCHS in (out["epoch"], out["epoch"] - 1)
    wait_epoch(net, out["epoch"] + 2)
    assert find_seat(net, account, out["epoch"] + 2) is None

    for rpc in (net.rpc("node1"), newcomer.rpc):
        wait_until(partial(is_paid_out, rpc, account), "the payout")
    wait_until(lambda: newcomer.rpc.call("status")["ready"], "it to be ready")
    status = newcomer.run("status")
    assert status["validator"]["is_voting"] is False
    assert int(newcomer.run("wallet", "balance")["total"]) > 8999 * COIN
    validate_books(net, newcomer)


def validate_books(net: RunningDevnet, newcomer: Newcomer) -> None:
    """Everybody has the same blocks, and every atom is somewhere."""
    height = net.height("node0")
    net.wait_height(height, "node3")

    def has_block() -> bool:
        return int(newcomer.rpc.call("status")["height"]) >= height

    wait_until(has_block, f"block {height} at the newcomer")
    hashes = {
        rpc.call("block", height=height)["block_hash"]
        for rpc in (net.rpc("node0"), net.rpc("node3"), newcomer.rpc)
    }
    assert len(hashes) == 1
    supply = newcomer.rpc.call("supply")
    assert supply["conserved"] is True
    assert int(supply["minted"]) > 0


def is_paid_out(rpc: RpcClient, account: str) -> bool:
    """Tell whether nothing is left of a stake."""
    return not list_stakes(rpc, account)


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

"""Validators of a devnet that follow one layer shard of two, and then both."""

import re
import signal
from pathlib import Path

import pytest
from devnet_process import start_devnet, wait_until

from p2pchain.client import RpcError

EPOCHS = (
    "--epoch-blocks", "12",
    "--evidence-epochs", "1",
    "--unbonding-epochs", "6",
    "--epoch-reward", "8",
)  # fmt: skip
"""So short that the state of a shard is taken from peers, not from genesis."""
COIN = 10**9


@pytest.fixture(scope="module")
def devnet(tmp_path_factory):
    running = start_devnet(tmp_path_factory.mktemp("follow") / "net", *EPOCHS)
    yield running
    running.stop()


def follow(devnet, name: str, shards: str) -> None:
    """Let a validator start again with other shards, and wait until it is at work."""
    node = devnet.get_node(name)
    config = Path(node["home"]) / "config.toml"
    devnet.kill(name, signal.SIGTERM)
    # By lot it may be a custodian of any shard, and then it follows that one too.
    text = config.read_text().replace("custodian = true", "custodian = false")
    wanted = f'follow_shards = "{shards}"'
    config.write_text(re.sub('follow_shards = ".*"', wanted, text))
    devnet.restart(name)
    status = devnet.rpc(name).call
    wait_until(lambda: status("status")["ready"], f"{name} to be ready")
    devnet.wait_height(devnet.height() + 3, name)


def test_a_validator_that_follows_one_shard_votes_on(devnet) -> None:
    name = devnet.validators[0]["name"]
    follow(devnet, name, "hosted")
    status = devnet.rpc(name).call("status")
    assert status["followed"] == [0, 1]
    assert status["shards"] == [0, 1, 2]
    shards = devnet.rpc(name).call("shard_list")["shards"]
    assert [shard["followed"] for shard in shards] == [True, True, False]
    address = devnet.rpc().call("status")["address"]
    # Of the shard that it does not follow its peers show what is there, proven.
    account = wait_shown(devnet, name, address)
    assert [each["shard"] for each in account["shards"]] == [0, 1, 2]
    assert account["total"] == devnet.rpc().call("account", address=address)["total"]
    proof = wait_until(
        lambda: devnet.rpc(name).call("state_proof", shard=2, key="0x61"), "a proof"
    )
    assert proof["value"] is None
    gaps = devnet.rpc(name).call("account_txs", address=address)["missing"]
    # By lot it was a custodian of the other shard before, or was not.
    assert {gap["shard"] for gap in gaps} == {2}
    assert gaps[-1]["until"] is None
    with pytest.raises(RpcError) as error:
        devnet.rpc(name).call("state_proof", shard=2, key="0x61", height="1")
    assert error.value.code == -32006
    # The chain goes on where it votes, and its roots are those of everybody.
    check_same_block(devnet, name, devnet.height(name))


def wait_shown(devnet, name: str, address: str) -> dict:
    """Return an account as a node shows it, once its peers let it show all of it."""

    def show() -> dict | None:
        account = devnet.rpc(name).call("account", address=address)
        return None if account["unknown_shards"] else account

    return wait_until(show, f"{name} to know all shards")


def test_its_wallet_has_one_balance(devnet) -> None:
    call = devnet.rpc(devnet.validators[0]["name"], token=True).call
    address = call("wallet_address")["address"]

    def read_balance(shard: int) -> int:
        account = call("wallet_balance")
        return {s["shard"]: int(s["balance"]) for s in account["shards"]}.get(shard, 0)

    call("wallet_send", recipient=address, amount=str(9 * COIN), shard=2, wait=True)
    wait_until(lambda: read_balance(2) == 9 * COIN, "money to arrive")
    # Out of the shard that it does not follow, inside of it; the outcome is known.
    sent = call("wallet_send", recipient=address, amount=str(COIN), shard=2, wait=True)
    (done,) = sent["transactions"]
    assert done["shard"] == 2
    assert done["ok"] is True
    assert call("tx", hash=done["tx_id"])["outcome"]["ok"] is True
    history = call("account_txs", address=address)["transactions"]
    assert history[0]["tx_id"] == done["tx_id"]
    # A fee was burned.
    wait_until(lambda: 8 * COIN < read_balance(2) < 9 * COIN, "the balance after it")


def check_same_block(devnet, name: str, height: int) -> None:
    """The roots of all shards are in a block's hash; certificates may differ."""
    assert devnet.read_block_hash(height, name) == devnet.read_block_hash(height)


def test_it_takes_the_other_shard_on_and_votes_on(devnet) -> None:
    name = devnet.validators[0]["name"]
    follow(devnet, name, "all")
    node = devnet.rpc(name).call
    wait_until(lambda: node("status")["followed"] == [0, 1, 2], "shard 2 to be here")
    check_same_block(devnet, name, devnet.height(name) + 2)
    # It answers for both by itself, and its state is that of everybody.
    address = devnet.rpc().call("status")["address"]
    account = node("account", address=address)
    assert [each["shard"] for each in account["shards"]] == [0, 1, 2]
    shards = node("shard_list")["shards"]
    assert [shard["followed"] for shard in shards] == [True, True, True]
    wait_until(lambda: node("status")["validator"]["is_voting"], f"{name} to vote")
    log = Path(devnet.get_node(name)["home"]) / "node.log"
    line = r"shard 2 is followed, with its state of block (\d+)"
    found = wait_until(lambda: re.search(line, log.read_text()), "its line in the log")
    assert int(found[1]) % int(EPOCHS[1]) == 0


def test_a_validator_follows_what_it_hosts_whatever_it_is_told(devnet) -> None:
    name = devnet.validators[-1]["name"]
    follow(devnet, name, "1")
    assert devnet.rpc(name).call("status")["followed"] == [0, 1, 2]

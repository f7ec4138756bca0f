"""A light client and its wallet beside real processes, over the ends of epochs."""

import json
from pathlib import Path

from devnet_process import EPOCH_BLOCKS, run_cli, wait_until

from primitives.address import encode_address
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN

STALE = "--accept-stale"
"""Twenty epochs of this network are less than a minute."""
STRANGER = encode_address(SecretKey(bytes([77]) * 32).public_key)


def ask(home: Path, *args: str, code: int = 0) -> dict:
    done = run_cli("--home", str(home), "--json", *args)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_it_follows_a_network_that_it_does_not_trust(net, tmp_path) -> None:
    """Only the chain id is known; the node's genesis is taken at its hash."""
    url = net.validators[0]["rpc"]
    chain_id = net.rpc().call("genesis")["chain_id"]
    first = ask(tmp_path, "light", "sync", "--rpc", url, "--chain-id", chain_id, STALE)
    assert not (tmp_path / "api_token").exists()
    wait_until(
        lambda: net.height() > EPOCH_BLOCKS * (first["epoch"] + 2),
        "the epoch after next",
    )
    # From now on the file is enough, and any node will do that is as far.
    other = net.validators[1]
    net.wait_height(net.height(), other["name"])
    second = ask(tmp_path, "light", "sync", "--rpc", other["rpc"], STALE)
    assert second["epoch"] > first["epoch"]
    for name in ("gateway", net.validators[0]["name"]):
        net.wait_height(int(second["height"]), name)
    found = net.rpc().call("header", height=second["height"])
    assert found["header"]["epoch"] == second["epoch"]
    assert found["header"]["valset_root"] == second["validators_root"]
    # Somebody who trusts that set by its root alone is on the same chain.
    third = ask(
        tmp_path, "light", "sync", "--rpc", url, "--state", str(tmp_path / "b.json"),
        "--chain-id", chain_id, "--trust", second["trust"],
    )  # fmt: skip
    assert int(third["height"]) >= int(second["height"])
    assert third["bridged"] == "fresh"


def test_money_is_sent_and_proven(net, tmp_path) -> None:
    home = Path(net.gateway["home"])
    sent = ask(
        home, "wallet", "send", STRANGER, "2.5", "--shard", "1", "--light", STALE
    )
    assert (sent["final"], sent["paid"]) == (True, True)
    found = net.rpc().call("tx", hash=sent["tx_ids"][-1])
    assert found["outcome"]["ok"] is True
    amount = str(5 * ATOMS_PER_COIN // 2)
    wait_until(
        lambda: ask(home, "light", "balance", STRANGER, STALE)["total"] == amount,
        "the payment in the other shard",
    )

    def is_shown() -> bool:
        """Whether the chain did not go on between the two looks, and they agree."""
        own = ask(home, "wallet", "balance", "--light", STALE)
        assert own["proven"] is True
        shown = net.rpc().call("account", address=own["address"])
        return own["total"] == shown["total"]

    wait_until(is_shown, "a balance that is proven and shown")


def test_another_networks_root_is_refused(net) -> None:
    home = Path(net.gateway["home"])
    root = "0:0x" + "11" * 32
    said = ask(home, "light", "sync", "--trust", root, code=1)["error"]
    assert said["type"] == "InvalidProof"

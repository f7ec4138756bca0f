"""Money on a live network: sending, channels by hand, and what is refused."""

from pathlib import Path

import pytest
from devnet_process import RunningDevnet, run_cli, wait_until

from chain.records.transfer import Transfer
from genesis.files import load_genesis
from genesis.genesis import compute_chain_id
from p2pchain.client import RpcError
from primitives.address import decode_address, encode_address
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN
from wallet.transactions import ChainView, build_transaction

COIN = ATOMS_PER_COIN


@pytest.fixture
def cli(devnet: RunningDevnet):
    """Run a command on the gateway's home and return its parsed JSON."""
    import json

    def run(*args: str):
        done = run_cli("--home", devnet.gateway["home"], "--json", *args)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def get_total(devnet: RunningDevnet, address: str, name: str = "gateway") -> int:
    return int(devnet.rpc(name).get(f"/api/v1/address/{address}")["total"])


def test_money_is_sent_by_the_command_line(devnet, cli) -> None:
    recipient = encode_address(SecretKey(bytes([1]) * 32).public_key)
    before = get_total(devnet, recipient)
    sent = cli("wallet", "send", recipient, "2.5")
    assert sent["final"] is True
    # What came out of another shard arrives with one of the next chunks.
    wait_until(
        lambda: get_total(devnet, recipient) - before == 5 * COIN // 2, "the payment"
    )
    found = devnet.rpc().call("tx", hash=sent["tx_ids"][-1])
    assert found["outcome"]["ok"] is True


def test_money_is_found_across_shards(devnet, cli) -> None:
    """The sum lies in three shards, the payment takes more than any one holds."""
    key = SecretKey(bytes([2]) * 32)
    address = encode_address(key.public_key)
    rpc = devnet.rpc(token=True)
    for shard in (0, 1, 2):
        rpc.call("wallet_send", recipient=address, amount=str(COIN), shard=shard)

    def get_shards() -> dict[int, int]:
        account = rpc.get(f"/api/v1/address/{address}")
        return {each["shard"]: int(each["balance"]) for each in account["shards"]}

    wait_until(lambda: get_shards() == {0: COIN, 1: COIN, 2: COIN}, "three arrivals")
    supply = rpc.get("/api/v1/supply")
    assert supply["held"] == supply["created"]


def test_a_channel_is_opened_and_its_close_requested_by_hand(devnet, cli) -> None:
    provider = devnet.rpc().get("/api/v1/providers")["providers"][0]["account"]
    existing = [
        each
        for each in cli("channel", "list")["channels"]
        if each["payee"] == provider and each["status"] != "CLOSED"
    ]
    if not existing:
        cli("channel", "open", provider, "0.01")
    channel = next(
        each
        for each in cli("channel", "list")["channels"]
        if each["payee"] == provider and each["status"] != "CLOSED"
    )
    cli("channel", "close", channel["channel_id"])
    closing = devnet.rpc().get(f"/api/v1/channels/{channel['channel_id']}")
    assert closing["status"] == "CLOSING"
    assert int(closing["close_height"]) > devnet.height()
    rpc, channel_id = devnet.rpc(token=True), channel["channel_id"]
    with pytest.raises(RpcError, match="may settle until block") as error:
        rpc.call("wallet_channel_close", channel_id=channel_id)
    assert error.value.data["reason"] == "grace_window"


SPENT_AT = ("gateway", "node0", "node3")
"""Nodes to which the account's payments are handed."""


@pytest.fixture
def funded(devnet: RunningDevnet) -> SecretKey:
    """An account with one coin in the root shard, as the nodes see it that we ask."""
    key = SecretKey(bytes([3]) * 32)
    address = encode_address(key.public_key)
    if get_total(devnet, address) < COIN:
        devnet.rpc(token=True).call(
            "wallet_send", recipient=address, amount=str(COIN), wait=True
        )
    wait_until(
        lambda: all(get_total(devnet, address, name) > 0 for name in SPENT_AT),
        "the money at all of them",
    )
    return key


def build(devnet, key: SecretKey, *, nonce=0, shard=0, amount=1000, chain_id=None):
    genesis = load_genesis(Path(devnet.gateway["home"]) / "genesis.json")
    view = ChainView(
        chain_id=chain_id or compute_chain_id(genesis),
        params=genesis.params.chain,
        height=devnet.height(),
        nonces={shard: nonce},
    )
    payload = Transfer(SecretKey(bytes([4]) * 32).public_key, shard, amount)
    return encode(build_transaction(key, view, shard, payload))


def refuse(devnet: RunningDevnet, data: bytes) -> str:
    """Submit what must be refused and return the reason."""
    with pytest.raises(RpcError) as error:
        devnet.rpc().call("broadcast_tx_sync", tx="0x" + data.hex())
    return error.value.data["reason"]


def test_what_no_node_takes(devnet, funded) -> None:
    nonce = get_nonce(devnet, funded)
    good = build(devnet, funded, nonce=nonce)
    assert refuse(devnet, build(devnet, funded, nonce=nonce, amount=10**15)) == (
        "insufficient_funds"
    )
    assert refuse(devnet, build(devnet, funded, nonce=nonce + 5000)) == "nonce_gap"
    assert refuse(devnet, good[:-1] + bytes([good[-1] ^ 1])) == "bad_signature"
    assert refuse(devnet, good + b"\0") == "malformed"
    assert refuse(devnet, build(devnet, funded, chain_id=bytes(32))) == "wrong_chain"
    assert refuse(devnet, build(devnet, funded, shard=9)) == "wrong_shard"


def test_a_double_spend_happens_once(devnet, funded) -> None:
    """The two halves reach different validators at the same time."""
    nonce = get_nonce(devnet, funded)
    first = build(devnet, funded, nonce=nonce, amount=1000)
    second = build(devnet, funded, nonce=nonce, amount=2000)
    recipient = encode_address(SecretKey(bytes([4]) * 32).public_key)
    before = get_total(devnet, recipient)
    taken = [
        name
        for name, data in (("node0", first), ("node3", second))
        if "error"
        not in devnet.rpc(name).call_raw("broadcast_tx_sync", {"tx": "0x" + data.hex()})
    ]
    # The other one has heard of the first half before its own, or has not.
    assert "node0" in taken or "node3" in taken
    wait_until(lambda: get_nonce(devnet, funded) == nonce + 1, "one of them")
    devnet.wait_height(devnet.height() + 2)
    assert get_total(devnet, recipient) - before in (1000, 2000)
    assert get_nonce(devnet, funded) == nonce + 1
    assert refuse(devnet, first) in ("wrong_nonce", "already_known")


def get_nonce(devnet: RunningDevnet, key: SecretKey) -> int:
    address = encode_address(key.public_key)
    assert decode_address(address) == key.public_key
    account = devnet.rpc().get(f"/api/v1/address/{address}")
    return next(int(s["nonce"]) for s in account["shards"] if s["shard"] == 0)

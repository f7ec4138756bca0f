"""
Transfers on a real devnet: how many, what they cost, and how soon one is final.

Accounts are funded and transactions signed beforehand; then every validator gets its
share in batches of broadcast_tx_sync, and the clock runs until the gateway shows the
last one of every sender as final.
"""

import json
import random
import secrets
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from chain.records.transaction import SignedTransaction, compute_tx_id
from chain.records.transfer import Transfer
from genesis.files import load_genesis
from genesis.genesis import Genesis, compute_chain_id
from p2pchain.bench.lab.lab import BenchError, Lab, RunningNetwork
from p2pchain.bench.lab.procfs import read_cpu_s
from p2pchain.bench.report import Figure, compute_quantile, summarise
from primitives.address import encode_address
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN
from wallet.transactions import ChainView, build_transactions

SENDERS = 16
PER_SENDER = 240
"""Just below the mempool's window of 256 nonces: nothing has to wait for its turn."""
BATCH = 60
"""Calls in one request; the RPC takes up to 100."""
ROUNDS = 2
FINAL_S = 60.0
"""Longest wait for a lot to be final."""
POLL_S = 0.1
IDLE_S = 4.0
"""Of the idle network, whose CPU is taken off."""
SINGLES = 24
"""Transfers one at a time; with waiting about a minute."""


def run_transfers(lab: Lab) -> list[Figure]:
    """Push lots of transfers through four validators."""
    network = lab.get_network()
    wallets = _Wallets(network, SENDERS)
    rates, costs, submits = [], [], []
    idle_s = _measure_idle(network)
    for number in range(ROUNDS):
        lab.report(f"lot {number + 1} of {ROUNDS}")
        lots = wallets.sign(PER_SENDER)
        count = SENDERS * PER_SENDER
        cpu_s = _read_cpu_s(network)
        started = time.perf_counter()
        _submit(network, lots)
        submitted_s = time.perf_counter() - started
        _wait_final(network, [lot[-1] for lot in lots])
        seconds = time.perf_counter() - started
        spent_s = _read_cpu_s(network) - cpu_s - idle_s * seconds
        rates.append(count / seconds)
        submits.append(count / submitted_s)
        costs.append(spent_s * 1000 / count)
    nodes = len(network.nodes)
    return [
        summarise("signed to final", rates, "tx/s",
                  f"{SENDERS * PER_SENDER:,} at once, into four validators"),
        summarise("taken by the mempools", submits, "tx/s"),
        summarise("CPU of all nodes", costs, "ms/tx", f"{nodes} nodes, idling off"),
        summarise("CPU per node", [cost / nodes for cost in costs], "ms/tx"),
        Figure("CPU of the idle network", 100 * idle_s, "% of a core",
               f"{nodes} nodes, without workers"),
    ]  # fmt: skip


def run_finality(lab: Lab) -> list[Figure]:
    """Send single transfers to an idle network, at any moment of a block's life."""
    network = lab.get_network()
    wallets = _Wallets(network, 1)
    client = network.client()
    luck = random.Random(7)
    samples = []
    for number in range(SINGLES):
        lab.report(f"transfer {number + 1} of {SINGLES}")
        time.sleep(luck.random())
        ((signed,),) = wallets.sign(1)
        started = time.perf_counter()
        client.call("broadcast_tx_commit", tx=_to_hex(encode(signed)))
        samples.append(time.perf_counter() - started)
    return [
        Figure("submission to finality, p50", compute_quantile(samples, 0.5), "s",
               f"n {SINGLES}, blocks of 1 s"),
        Figure("submission to finality, p95", compute_quantile(samples, 0.95), "s"),
        Figure("fastest", min(samples), "s"),
        Figure("slowest", max(samples), "s"),
    ]  # fmt: skip


class _Wallets:
    """Accounts of our own with money in the root shard."""

    def __init__(self, network: RunningNetwork, count: int) -> None:
        """Fund `count` new accounts and wait until the money is there."""
        home = Path(network.gateway["home"])
        genesis: Genesis = load_genesis(home / "genesis.json")
        self._chain_id = compute_chain_id(genesis)
        self._params = genesis.params.chain
        self._client = network.client()
        self._keys = [SecretKey(secrets.token_bytes(32)) for _ in range(count)]
        self._nonces = dict.fromkeys(self._keys, 0)
        self._fund(network)

    def _fund(self, network: RunningNetwork) -> None:
        bank = SecretKey(secrets.token_bytes(32))
        self._client.call(
            "wallet_send",
            recipient=encode_address(bank.public_key),
            amount=str(2 * len(self._keys) * ATOMS_PER_COIN),
            wait=True,
        )
        payloads = [Transfer(key.public_key, 0, ATOMS_PER_COIN) for key in self._keys]
        signed = build_transactions(bank, self._view(0), [(0, p) for p in payloads])
        _submit(network, [signed])
        _wait_final(network, [signed[-1]])

    def sign(self, count: int) -> list[tuple[SignedTransaction, ...]]:
        """Return the next `count` transfers of every account."""
        lots = []
        for index, key in enumerate(self._keys):
            payload = Transfer(self._keys[index - 1].public_key, 0, 1)
            view = self._view(self._nonces[key])
            lots.append(build_transactions(key, view, [(0, payload)] * count))
            self._nonces[key] += count
        return lots

    def _view(self, nonce: int) -> ChainView:
        height = int(self._client.call("status")["height"])
        return ChainView(self._chain_id, self._params, height, {0: nonce})


def _submit(
    network: RunningNetwork, lots: Sequence[tuple[SignedTransaction, ...]]
) -> None:
    """Send every validator its share of the senders, all at the same time."""
    validators = [node for node in network.nodes if node["layers"]]
    shares: list[list[SignedTransaction]] = [[] for _ in validators]
    for index, lot in enumerate(lots):
        shares[index % len(shares)].extend(lot)

    def send(place: tuple[dict[str, Any], list[SignedTransaction]]) -> None:
        node, share = place
        for begin in range(0, len(share), BATCH):
            _broadcast(node["rpc"], share[begin : begin + BATCH])

    with ThreadPoolExecutor(len(validators)) as pool:
        list(pool.map(send, zip(validators, shares, strict=True)))


def _broadcast(url: str, batch: Sequence[SignedTransaction]) -> None:
    calls = [("broadcast_tx_sync", {"tx": _to_hex(encode(signed))}) for signed in batch]
    for answer in _call_batch(url, calls):
        if "error" in answer:
            raise BenchError(f"a transfer was refused: {answer['error']['message']}")


def _wait_final(network: RunningNetwork, last: Sequence[SignedTransaction]) -> None:
    """Wait until the gateway shows these transactions as final."""
    waiting = [_to_hex(compute_tx_id(encode(signed))) for signed in last]

    def look() -> bool:
        answers = _call_batch(network.api, [("tx", {"hash": each}) for each in waiting])
        return all(answer.get("result", {}).get("final") for answer in answers)

    _wait_until(look, FINAL_S)


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not final after {seconds:.0f} s")
        time.sleep(POLL_S)


def _call_batch(
    url: str, calls: Sequence[tuple[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Return the answers to a batch of JSON-RPC calls."""
    body = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(calls)
    ]
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answers: list[dict[str, Any]] = json.load(response)
    return answers


def _measure_idle(network: RunningNetwork) -> float:
    """Return the CPU seconds per second of the nodes with nothing to do."""
    before, started = _read_cpu_s(network), time.perf_counter()
    time.sleep(IDLE_S)
    return (_read_cpu_s(network) - before) / (time.perf_counter() - started)


def _read_cpu_s(network: RunningNetwork) -> float:
    return sum(read_cpu_s(pid) for pid in network.pids)


def _to_hex(data: bytes) -> str:
    return "0x" + data.hex()

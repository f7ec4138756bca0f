"""
Transfers through RPC for a minute, and transfers between shards.

Four validators, the generator and whatever else runs share the machine's cores; so the
rate is bounded by the CPU of a transfer over all of them, which stands beside it.
"""

import secrets
import time
from collections.abc import Sequence

from chain.records.transfer import Transfer
from p2pchain.bench.chain.load import Load, Sender
from p2pchain.bench.chain.meter import Counts
from p2pchain.bench.chain.nodes import MeteredNetwork, open_nodes
from p2pchain.bench.lab.lab import BenchError, Lab
from p2pchain.bench.report import Figure, compute_quantile, describe
from p2pchain.client import RpcClient
from primitives.address import encode_address
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN, ShardId
from wallet.transactions import ChainView, build_transactions

SENDERS = 128
RATE = 1000.0
"""Transfers per second that are offered; the goal on two cores."""
SINGLES_RATE = 1.7
"""For latency: one at a time, at any moment of a block's life."""
SINGLES_S = 25.0
WARM_S = 8.0
SUSTAINED_S = 60.0
DRAIN_S = 5.0
FUND_S = 60.0
CROSSINGS = 12
POLL_S = 0.03


def run_sustained(lab: Lab) -> list[Figure]:
    """Offer transfers in the layer shards for a minute; count what becomes final."""
    with open_nodes(lab, "sustained") as network:
        shards = network.layer_shards
        senders = fund(network, {shard: SENDERS // len(shards) for shard in shards})
        load = build_load(network, senders, RATE)
        lab.report(f"{RATE:.0f} transfers a second for {SUSTAINED_S:.0f} s")
        load.start()
        time.sleep(WARM_S)
        before = _Snapshot(network, load)
        time.sleep(SUSTAINED_S)
        after = _Snapshot(network, load)
        load.rate = 0.0
        time.sleep(DRAIN_S)
        load.stop()
        final = load.count_final()
    return _build_figures(before, after, load, final)


def run_latency(lab: Lab) -> list[Figure]:
    """Send single transfers in a layer shard, in the root shard, and across."""
    with open_nodes(lab, "latency") as network:
        shard = network.layer_shards[0]
        figures = []
        for name, place in (("root shard", 0), ("layer shard", shard)):
            lab.report(f"single transfers in the {name}")
            load = build_load(network, fund(network, {place: 16}), SINGLES_RATE)
            load.start()
            time.sleep(SINGLES_S)
            load.rate = 0.0
            time.sleep(DRAIN_S)
            load.stop()
            waits = [each.final_s - each.sent_s for each in load.followed]
            title = f"submission to finality, {name}"
            figures.append(describe(title, waits, "s", 1))
        for name, src, dst in (
            ("root to layer shard", 0, shard),
            ("layer to layer shard", shard, network.layer_shards[-1]),
            ("layer to root shard", shard, 0),
        ):
            lab.report(f"transfers from {name}")
            figures += _measure_crossing(network, name, src, dst)
    return figures


def fund(network: MeteredNetwork, counts: dict[ShardId, int]) -> list[Sender]:
    """Return new accounts with a coin each in their shards, paid by the first node."""
    client = network.nodes[0].client()
    bank = SecretKey(secrets.token_bytes(32))
    places = [shard for shard, count in counts.items() for _ in range(count)]
    amount = str(2 * len(places) * ATOMS_PER_COIN)
    recipient = encode_address(bank.public_key)
    client.call("wallet_send", recipient=recipient, amount=amount, wait=True)
    keys = [SecretKey(secrets.token_bytes(32)) for _ in places]
    payloads = [
        (0, Transfer(key.public_key, shard, ATOMS_PER_COIN))
        for key, shard in zip(keys, places, strict=True)
    ]
    height = int(client.call("status")["height"])
    chain = network.genesis.params.chain
    view = ChainView(network.chain_id, chain, height, {0: 0})
    for signed in build_transactions(bank, view, payloads):
        client.call("broadcast_tx_sync", tx="0x" + encode(signed).hex())
    for key, shard in zip(keys, places, strict=True):
        _wait_balance(client, key.public_key, shard, ATOMS_PER_COIN)
    network.wait_height(int(client.call("status")["height"]))
    return [
        Sender(key, shard, keys[index - 1].public_key, shard)
        for index, (key, shard) in enumerate(zip(keys, places, strict=True))
    ]


def build_load(network: MeteredNetwork, senders: Sequence[Sender], rate: float) -> Load:
    """Return a load over all nodes."""
    urls = [node.rpc for node in network.nodes]
    params = network.genesis.params.chain
    return Load(network.chain_id, params, urls, senders, rate)


class _Snapshot:
    """Everything that is counted, at one moment."""

    def __init__(self, network: MeteredNetwork, load: Load) -> None:
        self.final = load.count_final()
        self.at_s = time.monotonic()
        self.nodes_s = network.read_cpu_s()
        self.own_s = time.process_time()
        self.counts: list[Counts] = [node.read_counts() for node in network.nodes]


def _build_figures(
    before: _Snapshot, after: _Snapshot, load: Load, final: int
) -> list[Figure]:
    seconds = after.at_s - before.at_s
    count = after.final - before.final
    waits = [
        each.final_s - each.sent_s
        for each in load.followed
        if each.sent_s >= before.at_s
    ]
    if not count or not waits:
        raise BenchError("nothing became final")
    per_tx = 1000 / count
    nodes = len(before.counts)
    spent = [b.subtract(a) for a, b in zip(before.counts, after.counts, strict=True)]
    stages: dict[str, float] = {}
    for each in spent:
        for stage, used in each.stages.items():
            stages[stage] = stages.get(stage, 0.0) + used
    main = sum(each.main_s for each in spent)
    whole = sum(each.all_s for each in spent)
    disk = stages.get("chunks to disk", 0.0)
    own = (after.own_s - before.own_s) * per_tx
    all_nodes = (after.nodes_s - before.nodes_s) * per_tx
    unit = "ms CPU/tx"
    return [
        Figure("final", count / seconds, "tx/s",
               f"{RATE:.0f} offered, {load.refused} refused and sent again"),
        Figure("submission to finality, p50", compute_quantile(waits, 0.5), "s",
               f"n {len(waits)}"),
        Figure("submission to finality, p95", compute_quantile(waits, 0.95), "s"),
        Figure("all taken are final in the end", final == load.taken, "",
               f"{final} of {load.taken}"),
        Figure("everything together", all_nodes + own, unit,
               f"{nodes} nodes, their workers and the generator"),
        Figure("generator", own, unit, "signs, sends and follows"),
        Figure("a node", all_nodes / nodes, unit),
        *(
            Figure(f"  {stage}", used * per_tx / nodes, unit)
            for stage, used in sorted(stages.items(), key=lambda item: -item[1])
        ),
        Figure("  network, votes, the rest", (main - sum(stages.values()) + disk)
               * per_tx / nodes, unit, "of the main thread"),
        Figure("  other threads", (whole - main - disk) * per_tx / nodes, unit,
               "HTTP, LevelDB"),
    ]  # fmt: skip


def _measure_crossing(
    network: MeteredNetwork, name: str, src: ShardId, dst: ShardId
) -> list[Figure]:
    """Move an amount from shard to shard, again and again; one after the other."""
    (sender,) = fund(network, {src: 1})
    client = RpcClient(network.nodes[0].rpc)
    recipient = SecretKey(secrets.token_bytes(32)).public_key
    seconds, blocks = [], []
    for number in range(CROSSINGS):
        time.sleep(secrets.randbelow(1000) / 1000)
        height = int(client.call("status")["height"])
        chain = network.genesis.params.chain
        view = ChainView(network.chain_id, chain, height, {src: number})
        payload = Transfer(recipient, dst, 1)
        (signed,) = build_transactions(sender.key, view, [(src, payload)])
        started = time.monotonic()
        tx = "0x" + encode(signed).hex()
        sent = client.call("broadcast_tx_commit", tx=tx)
        arrived = _wait_balance(client, recipient, dst, number + 1)
        seconds.append(time.monotonic() - started)
        blocks.append(float(arrived - int(sent["height"])))
    return [
        describe(f"{name}, submission until credited", seconds, "s", 1),
        describe(f"{name}, blocks between", blocks, "", 1),
    ]


def _wait_balance(
    client: RpcClient, address: bytes, shard: ShardId, amount: int
) -> int:
    """Wait for money in a shard; returns the height at which it was seen."""
    deadline = time.monotonic() + FUND_S
    while time.monotonic() < deadline:
        account = client.call("account", address=encode_address(address))
        for place in account["shards"]:
            if place["shard"] == shard and int(place["balance"]) >= amount:
                return int(account["height"])
        time.sleep(POLL_S)
    raise BenchError(f"no money in shard {shard} after {FUND_S:.0f} s")

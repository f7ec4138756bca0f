"""
A fresh node takes a state of a million keys from nodes in processes of their own.

Servers are listeners on LevelDB, and so is the node that takes the state; all is real
but that nobody votes.  The clock runs from the first connection until the chain opens
at the snapshot's block: offers, manifest, light client, parts, files, database.

A server also notes how late its loop wakes up from naps of a millisecond: for so long
a vote would have waited.

The accounts are put into the servers' first state directly: a genesis document of a
million lines would only be read.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import trio

from chain.records.account import Account
from chain.records.keys import build_account_key
from chain.records.spec import ChainSpec
from chain.storage.leveldb import LevelStore
from chain.tree.opening import open_tree
from network.endpoint import Endpoint
from network.network import Network
from p2pchain.bench.chain.validators import Validators, get_past_ms
from p2pchain.bench.lab.lab import BenchError, Lab, LineProcess
from p2pchain.bench.report import Figure, compute_quantile, get_load
from p2pchain.node.chain.service import ChainService
from p2pchain.node.state_sync.board import Progress
from p2pchain.node.state_sync.files import PartFiles
from p2pchain.node.state_sync.install import settle_database
from p2pchain.node.state_sync.server import StateSyncServer
from p2pchain.node.state_sync.state_sync import StateSync
from p2pchain.sim.chains.people import NothingWaits
from primitives import bls
from primitives.codec import encode
from primitives.hashing import compute_hash
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN

KEYS = 1_000_000
"""Accounts in one shard."""
LEVELS = 9
"""Of the bucket trees: four accounts per bucket."""
SHARD = 1
EPOCH_BLOCKS = 4
HEIGHT = 2 * EPOCH_BLOCKS
"""Of the snapshot's block."""
LIMIT_S = 300.0
SERVERS = (1, 3)
ROUNDS = 3
NAP_S = 0.001


@dataclass(frozen=True, slots=True)
class Taken:
    """What it took to take a state."""

    fetch_s: float
    """Until every part was on disk."""
    open_s: float
    """From there until the chain was open."""
    cpu_s: float
    """Of the node that took it."""
    server_cpu_s: float
    """Of all servers."""
    late_ms: float
    """How late the worst of a thousand naps of a server ended."""
    bytes: int
    parts: int

    @property
    def total_s(self) -> float:
        """From the connection until the chain was open."""
        return self.fetch_s + self.open_s


def run_state_sync(lab: Lab) -> list[Figure]:
    """Take the state from one server and from several."""
    lab.report(f"making a state of {KEYS:,} keys")
    time_ms = get_past_ms(600)
    folder = lab.folder / "state-sync"
    _make_chain(folder / "chain", time_ms)
    figures = []
    for servers in SERVERS:
        samples = []
        for number in range(ROUNDS):
            lab.report(f"taking it from {servers}, round {number + 1}")
            samples.append(_take_from(folder, servers, time_ms))
        figures += _summarise(samples, servers)
    return figures


def build_spec(time_ms: int, keys: int) -> tuple[Validators, ChainSpec]:
    """Return the chain of the section, with `keys` accounts in its first state."""
    world = Validators({}, time_ms=time_ms)
    params = msgspec.structs.replace(
        world.spec.params, epoch_blocks=EPOCH_BLOCKS, bucket_levels=LEVELS
    )
    state = {shard: dict(pairs) for shard, pairs in world.spec.state.items()}
    for number in range(keys):
        name = compute_hash("bench-account", number.to_bytes(8, "big"))
        account = Account(ATOMS_PER_COIN + number, number % 100, ())
        state[SHARD][build_account_key(name)] = encode(account)
    world.spec = replace(world.spec, params=params, state=state)
    return world, world.spec


def _make_chain(folder: Path, time_ms: int) -> None:
    """Save a chain that ends with an epoch."""
    world, spec = build_spec(time_ms, KEYS)
    with LevelStore(folder) as store:
        tree = open_tree(spec, store, bls)
        while tree.final_height < HEIGHT:
            tree.finalize(world.certify(world.build(tree, NothingWaits())))


def _take_from(folder: Path, servers: int, time_ms: int) -> Taken:
    """Start servers on copies of the chain, and let a fresh node take the state."""
    processes: list[LineProcess] = []
    try:
        endpoints = []
        for index in range(servers):
            own = folder / f"server-{index}"
            if not own.exists():
                shutil.copytree(folder / "chain", own)
            process = LineProcess("p2pchain.bench.chain.state_sync")
            processes.append(process)
            said = process.ask({"folder": str(own), "index": index, "time_ms": time_ms})
            endpoints.append(Endpoint.parse(said["endpoint"]))
        fresh = folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        _, spec = build_spec(time_ms, 0)
        return _take(spec, fresh, endpoints, processes)
    finally:
        for process in processes:
            process.__exit__()


def _take(
    spec: ChainSpec,
    folder: Path,
    endpoints: list[Endpoint],
    processes: list[LineProcess],
) -> Taken:
    files = PartFiles(folder / "state-sync")
    with LevelStore(folder / "data") as store:
        spent, started = time.process_time(), time.perf_counter()
        progress = trio.run(_fetch, spec, store, files, endpoints)
        fetched = time.perf_counter()
        told = [process.ask({"do": "tell"}) for process in processes]
        settle_database(spec, store, files)
        tree = open_tree(spec, store, bls)
        done = time.perf_counter()
        if tree.first_height != HEIGHT:
            raise BenchError(f"the history begins at {tree.first_height}")
    return Taken(
        fetch_s=fetched - started,
        open_s=done - fetched,
        cpu_s=time.process_time() - spent,
        server_cpu_s=sum(each["cpu_s"] for each in told),
        late_ms=max(each["late_ms"] for each in told),
        bytes=progress.bytes,
        parts=progress.parts,
    )


async def _fetch(
    spec: ChainSpec, store: LevelStore, files: PartFiles, endpoints: list[Endpoint]
) -> Progress:
    """Run a node until every part is on its disk."""
    network = Network(node_key=SecretKey(b"c" * 32), chain_id=spec.chain_id)
    chain = ChainService(spec, store, network)
    state_sync = StateSync(
        network, chain, files, after_epochs=0, get_best_height=lambda: HEIGHT
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run, "127.0.0.1", 0)
        for endpoint in endpoints:
            network.add_endpoint(endpoint, persistent=True)
        while len(network.peers()) < len(endpoints):
            await trio.sleep(0.01)
        with trio.move_on_after(LIMIT_S):
            await state_sync.run()
        nursery.cancel_scope.cancel()
    if not state_sync.ready.is_set():
        raise BenchError(f"no state after {LIMIT_S:.0f} s")
    progress = state_sync.progress
    assert progress is not None
    return progress


def _summarise(samples: list[Taken], servers: int) -> list[Figure]:
    whom = f"from {servers}"
    first = samples[0]
    size = f"{first.bytes / 1e6:.0f} MB in {first.parts} parts"
    note = f"{KEYS:,} keys, {size}; n {len(samples)}, load {get_load():.1f}"

    def take(name: str) -> float:
        return median(float(getattr(sample, name)) for sample in samples)

    rate = median(sample.bytes / sample.fetch_s for sample in samples)
    return [
        Figure(f"a state {whom}, in all", take("total_s"), "s", note),
        Figure(f"  fetched {whom}", take("fetch_s"), "s", "manifest made anew"),
        Figure(f"  written and opened {whom}", take("open_s"), "s"),
        Figure(f"  rate {whom}", rate / 1e6, "MB/s"),
        Figure(f"  CPU of the node {whom}", take("cpu_s"), "s"),
        Figure(f"  CPU of the servers, {servers}", take("server_cpu_s"), "s"),
        Figure(
            f"  a server's loop is late, {servers}",
            take("late_ms"),
            "ms",
            "p99.9 of naps of a millisecond",
        ),
    ]


# ------------------------------------------------------------------------ a server


async def _serve(settings: dict[str, Any]) -> None:
    """Serve a chain until the input ends; answers lines of JSON."""
    _, spec = build_spec(settings["time_ms"], 0)
    key = SecretKey(bytes([settings["index"] + 1]) * 32)
    with LevelStore(Path(settings["folder"])) as store:
        network = Network(node_key=key, chain_id=spec.chain_id)
        chain = ChainService(spec, store, network)
        server = StateSyncServer(network, chain, store)
        late: list[float] = []
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(network.run, "127.0.0.1", 0)
            nursery.start_soon(_nap, late)
            _say(endpoint=str(endpoint), pid=os.getpid())
            late.clear()
            spent = time.process_time()
            while await trio.to_thread.run_sync(sys.stdin.readline):
                worst = compute_quantile(late, 0.999) * 1000
                _say(cpu_s=time.process_time() - spent, late_ms=worst)
            nursery.cancel_scope.cancel()
        server.close()


async def _nap(late: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await trio.sleep(NAP_S)
        late.append(time.perf_counter() - started - NAP_S)


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _say()
    trio.run(_serve, json.loads(sys.stdin.readline()))

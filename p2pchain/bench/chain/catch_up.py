"""
A fresh node takes a chain from one that has it, over loopback.

Both are listeners with everything but the web interface: network, driver, chain on
LevelDB.  They share one process and so one core; the one that catches up judges,
executes and saves every block, the other one only reads and sends.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import trio

from chain.mempool import Mempool
from chain.records.transfer import Transfer
from chain.storage.leveldb import LevelStore
from consensus.participant import ParticipantConfig
from network.endpoint import Endpoint
from network.network import Network
from p2pchain.bench.chain.validators import Validators, get_past_ms
from p2pchain.bench.lab.lab import BenchError, Lab
from p2pchain.bench.report import Figure
from p2pchain.node.chain.service import ChainService
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.driver import ConsensusDriver
from p2pchain.sim.chains.people import NothingWaits
from primitives import bls
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.kv import KeyValueStore
from primitives.types import ATOMS_PER_COIN
from wallet.transactions import ChainView, build_transactions

EMPTY_BLOCKS = 480
"""Eight epochs of a devnet."""
FULL_BLOCKS = 16
SENDERS = 64
PER_SENDER = 32
"""Transfers per sender and block; together 2,048, most of a full block."""
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What it took to take a chain."""

    blocks: int
    clock_s: float
    """From the connection until the last block was final."""
    cpu_s: float
    """Of both nodes."""
    chain_bytes: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A running node without a vote."""

    network: Network
    chain: ChainService
    endpoint: Endpoint


def run_catch_up(lab: Lab) -> list[Figure]:
    """Catch up with empty blocks and with full ones."""
    figures = []
    for name, blocks, transfers in (
        ("empty", EMPTY_BLOCKS, 0),
        ("full", FULL_BLOCKS, PER_SENDER),
    ):
        lab.report(f"building {blocks} {name} blocks")
        world, folder = _build_chain(lab.folder / f"catch-up-{name}", blocks, transfers)
        lab.report("catching up")
        result = trio.run(catch_up, world, folder)
        note = f"{SENDERS * transfers:,} transfers each, " if transfers else ""
        note += f"{result.chain_bytes / result.blocks:,.0f} bytes each; n {blocks}"
        figures += [
            Figure(
                f"{name} blocks, by the clock",
                result.blocks / result.clock_s,
                "blocks/s",
                note,
            ),
            Figure(
                f"{name} blocks, CPU of both nodes",
                result.cpu_s / result.blocks * 1000,
                "ms/block",
            ),
        ]
    return figures


def _build_chain(folder: Path, blocks: int, transfers: int) -> tuple[Validators, Path]:
    """Save a chain of blocks in a folder; returns its validators too."""
    keys = [
        SecretKey.derive(SecretKey(bytes(32)), f"bench-{i}") for i in range(SENDERS)
    ]
    balances = {key.public_key: 1000 * ATOMS_PER_COIN for key in keys}
    world = Validators(balances, time_ms=get_past_ms(blocks + 60))
    with LevelStore(folder / "full") as store:
        tree = world.open_tree_on(store)
        pool = Mempool(world.spec, tree.verified)
        for number in range(blocks):
            for index, key in enumerate(keys if transfers else ()):
                view = ChainView(
                    chain_id=world.spec.chain_id,
                    params=world.spec.params,
                    height=number,
                    nonces={0: number * transfers},
                )
                payload = Transfer(keys[index - 1].public_key, 0, 1)
                lot = build_transactions(key, view, [(0, payload)] * transfers)
                for signed in lot:
                    pool.add(encode(signed), tree.final)
            held = world.build(tree, pool if transfers else NothingWaits())
            tree.finalize(world.certify(held))
            pool.revalidate(tree.final)
    return world, folder


async def catch_up(world: Validators, folder: Path) -> CaughtUp:
    """Let a fresh node take the chain in `folder`."""
    with (
        LevelStore(folder / "full") as full,
        LevelStore(folder / "fresh") as fresh,
    ):
        async with trio.open_nursery() as nursery:
            source = await _start(world, full, b"s", nursery)
            size = sum(
                len(found[0])
                for height in range(1, source.chain.height + 1)
                if (found := source.chain.get_final(height)) is not None
            )
            target = await _start(world, fresh, b"c", nursery)
            target.network.add_endpoint(source.endpoint, persistent=True)
            started, spent = time.perf_counter(), time.process_time()
            with trio.move_on_after(LIMIT_S):
                await target.chain.wait_height(source.chain.height)
            clock_s = time.perf_counter() - started
            cpu_s = time.process_time() - spent
            nursery.cancel_scope.cancel()
        height = target.chain.height
        if height < source.chain.height:
            raise BenchError(f"at height {height} after {LIMIT_S:.0f} s")
        return CaughtUp(height, clock_s, cpu_s, size)


async def _start(
    world: Validators, store: KeyValueStore, name: bytes, nursery: trio.Nursery
) -> Listener:
    """Start a node that follows the chain without a vote."""
    network = Network(node_key=SecretKey(name * 32), chain_id=world.spec.chain_id)
    chain = ChainService(world.spec, store, network)
    driver = ConsensusDriver(
        config=ParticipantConfig(
            chain_id=world.spec.chain_id,
            params=world.genesis.params.consensus,
            scheme=bls,
            signer=None,
        ),
        application=chain,
        network=network,
        wal_path=None,
        bodies=BodyExchange(network, chain.tree),
    )
    endpoint = await nursery.start(network.run, "127.0.0.1", 0)
    await nursery.start(driver.run)
    return Listener(network, chain, endpoint)

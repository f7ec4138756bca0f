"""
One node and blocks full of transfers: what each stage of a transfer costs.

    mempool (signature) -> build -> apply, at the others -> finalize (LevelDB, synced)

Signatures that the mempool has verified are not verified again in a block; a node that
catches up has to verify them there.
"""

import time
from collections.abc import Callable
from statistics import median

import trio

from chain.mempool import Mempool
from chain.records.transaction import SignedTransaction
from chain.records.transfer import Transfer
from chain.tree.blocktree import BlockTree
from network.network import Network
from network.topics import TOPICS, Topic, Verdict
from p2pchain.bench.chain.validators import Validators
from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.report import Figure, summarise
from p2pchain.sim.chains.committee import hand_bodies
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN
from wallet.transactions import ChainView, build_transactions

SENDERS = 64
PER_SENDER = 32
"""Together 2,048 transfers: most of a full block."""
BLOCKS = 4
GOSSIPED = 8000
GOSSIP_S = 20.0
"""No more than this for the gossip, whatever arrives."""


def run_blocks(lab: Lab) -> list[Figure]:
    """Fill blocks with transfers on one node and apply them on two others."""
    keys = [
        SecretKey.derive(SecretKey(bytes(32)), f"bench-{i}") for i in range(SENDERS)
    ]
    world = Validators({key.public_key: 1000 * ATOMS_PER_COIN for key in keys})
    names = ("leader", "warm", "cold")
    trees = [world.open_tree(lab.folder / f"blocks-{name}") for name in names]
    pools = [Mempool(world.spec, tree.verified) for tree in trees]
    costs: dict[str, list[float]] = {
        stage: []
        for stage in ("mempool", "build", "apply", "apply and verify", "finalize")
    }
    for number in range(BLOCKS):
        lab.report(f"block {number + 1} of {BLOCKS}")
        lot = _prepare(world, keys, trees[0].final_height, number)
        _run_block(world, trees, pools, lot, costs)
    gossip = trio.run(_gossip, [encode(signed) for signed in lot])
    return _build_figures(costs, gossip)


def _prepare(
    world: Validators, keys: list[SecretKey], height: int, number: int
) -> list[SignedTransaction]:
    """Return a block's worth of transfers, in the order of their arrival."""
    lots = []
    for index, key in enumerate(keys):
        view = ChainView(
            chain_id=world.spec.chain_id,
            params=world.spec.params,
            height=height,
            nonces={0: number * PER_SENDER},
        )
        payload = Transfer(keys[index - 1].public_key, 0, 1)
        lots.append(build_transactions(key, view, [(0, payload)] * PER_SENDER))
    return [signed for turn in zip(*lots, strict=True) for signed in turn]


def _run_block(
    world: Validators,
    trees: list[BlockTree],
    pools: list[Mempool],
    lot: list[SignedTransaction],
    costs: dict[str, list[float]],
) -> None:
    """Take one lot through all stages; notes CPU ms per transfer."""
    leader, warm, cold = trees
    data = [encode(signed) for signed in lot]

    def note(stage: str, action: Callable[[], object]) -> None:
        started = time.process_time()
        action()
        costs[stage].append((time.process_time() - started) * 1000 / len(lot))

    def fill(pool: Mempool, tree: BlockTree) -> None:
        for signed_bytes in data:
            pool.add(signed_bytes, tree.final)

    note("mempool", lambda: fill(pools[0], leader))
    fill(pools[1], warm)
    note("build", lambda: world.build(leader, pools[0]))
    (held,) = leader.pending
    taken = sum(len(chunk.transactions) for chunk in held.chunks)
    assert taken == len(lot)
    now_ms = held.header.time_ms
    hand_bodies(held, warm)
    note("apply", lambda: warm.add(held.block_bytes, now_ms, held.proposal))
    hand_bodies(held, cold)
    note("apply and verify", lambda: cold.add(held.block_bytes, now_ms, held.proposal))
    certificate = world.certify(held)
    note("finalize", lambda: cold.finalize(certificate))
    for tree, pool in zip((leader, warm), pools, strict=False):
        tree.finalize(certificate)
        pool.revalidate(tree.final)


def _build_figures(costs: dict[str, list[float]], gossip: float) -> list[Figure]:
    count = SENDERS * PER_SENDER
    behind = [a + f for a, f in zip(costs["apply"], costs["finalize"], strict=True)]
    catching = [
        a + f for a, f in zip(costs["apply and verify"], costs["finalize"], strict=True)
    ]
    unit = "ms CPU/tx"
    return [
        summarise(
            "apply and finalize, signatures known",
            [1000 / cost for cost in behind],
            "tx/s per core",
            f"blocks of {count:,}",
        ),
        summarise(
            "apply and finalize, signatures verified",
            [1000 / cost for cost in catching],
            "tx/s per core",
        ),
        summarise("mempool, with signature", costs["mempool"], unit),
        Figure("gossip, sender and receiver", gossip, unit, "one link, both ends"),
        summarise("build", costs["build"], unit, "leader only"),
        summarise("apply", costs["apply"], unit, "the others"),
        summarise("finalize", costs["finalize"], unit),
        Figure(
            "all stages of one node that does not lead",
            median(costs["mempool"]) + gossip / 2 + median(behind),
            unit,
        ),
    ]


async def _gossip(data: list[bytes]) -> float:
    """Return CPU ms per transaction on one link, both ends together."""
    alice, bob = (
        Network(node_key=SecretKey(name * 32), chain_id=bytes(32))
        for name in (b"a", b"b")
    )
    arrived = 0
    done = trio.Event()

    async def check(peer_id: bytes, payload: bytes) -> Verdict:
        nonlocal arrived
        arrived += 1
        if arrived == GOSSIPED:
            done.set()
        return Verdict.ACCEPT

    bob.subscribe(Topic.TRANSACTIONS, check)
    pause_s = 100 / (0.9 * TOPICS[Topic.TRANSACTIONS].count_per_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(alice.run, "127.0.0.1", 0)
        alice.add_endpoint(
            await nursery.start(bob.run, "127.0.0.1", 0), persistent=True
        )
        with trio.fail_after(GOSSIP_S):
            while not alice.peers():
                await trio.sleep(0.01)
        started = time.process_time()
        for number in range(GOSSIPED):
            # No two alike: what was seen before is dropped unread.
            alice.publish(
                Topic.TRANSACTIONS, data[number % len(data)] + number.to_bytes(4, "big")
            )
            if number % 100 == 99:
                await trio.sleep(pause_s)
        with trio.move_on_after(GOSSIP_S):
            await done.wait()
        spent = time.process_time() - started
        nursery.cancel_scope.cancel()
    return spent * 1000 / max(1, arrived)

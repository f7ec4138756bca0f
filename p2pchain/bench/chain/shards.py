r"""
Transfers inside of shards: side by side on one machine, and one shard out of several.

    block with S chunks --> one process              everything here
                       \--> this process + workers   chunks side by side, on the cores
                       \--> one chunk of S           what a node does that follows one

A block holds the same number of transfers however many shards they are in, so figures
of different numbers of shards can be compared.  Signatures are verified: chunks come
from peers, and nothing says that their transactions came by gossip before.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from chain.execution.chunk import ExecutedChunk
from chain.execution.executor import ChunkTask, InProcess, JudgeTask
from chain.execution.held import HeldBlock
from chain.execution.verified import VerifiedCache
from chain.execution.witness import build_witness, encode_witness
from chain.records.transaction import SignedTransaction
from chain.records.transfer import Transfer
from chain.state.chunk_state import ShardState
from chain.tree.blocktree import BlockTree
from chain.tree.building import ReadState
from p2pchain.bench.chain.validators import Validators
from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.report import Figure, format_number, summarise
from p2pchain.bench.scaling import compute_point
from p2pchain.node.chunks.workers import ChunkWorkers, compute_default_workers
from p2pchain.sim.chains.committee import hand_bodies
from primitives import bls
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN, ShardId
from shards.certificate import validate_chunk_certificate
from shards.slots import get_slot
from wallet.transactions import ChainView, build_transactions

SHARDS = (1, 2, 4)
TRANSFERS = 1280
"""In a block, over all its chunks: what a single layer shard's chunk has room for."""
SENDERS = 256
BLOCKS = 5
START_S = 60.0
VALIDATORS = (4, 16, 64, 192, 400, 1000)
"""For the law of scaling; only the first one is measured."""


def run_shards(lab: Lab) -> list[Figure]:
    """Execute blocks of 1, 2 and 4 chunks in every way that a node may."""
    runs = []
    for shards in SHARDS:
        lab.report(f"{shards} shards")
        runs.append(_run(lab.folder / f"shards-{shards}", shards))
    figures = []
    for run in runs:
        figures += _build_figures(run, runs[0])
    return figures + _build_law(runs[0])


@dataclass(slots=True)
class Run:
    """What one number of shards took; seconds per block unless said otherwise."""

    shards: int
    workers: int
    alone: list[float] = field(default_factory=list)
    """In one process, on the clock."""
    beside: list[float] = field(default_factory=list)
    """With workers, on the clock."""
    whole_cpu: list[float] = field(default_factory=list)
    """CPU of a node that follows every shard."""
    part_cpu: list[float] = field(default_factory=list)
    """CPU of a node that follows one, certificates of the others included."""
    judge_cpu: list[float] = field(default_factory=list)
    """CPU of an endorser of one chunk, from its witness."""
    witness_bytes: list[int] = field(default_factory=list)
    """Of one chunk."""


@dataclass(slots=True)
class Lots:
    """A leader's transactions by shard."""

    by_shard: dict[ShardId, list[SignedTransaction]]

    def get_waiting(self, shard: ShardId) -> int:
        """Return how many transactions wait for the shard."""
        return len(self.by_shard.get(shard, ()))

    def pick(
        self, shard: ShardId, read: ReadState
    ) -> Iterator[tuple[bytes, SignedTransaction]]:
        """Yield them in order."""
        for signed in self.by_shard.get(shard, ()):
            yield encode(signed), signed


class Catcher(InProcess):
    """Keeps what it was given, so that it can be executed again in other ways."""

    def __init__(self) -> None:
        self.tasks: Sequence[ChunkTask] = ()

    def execute(
        self, tasks: Sequence[ChunkTask], verified: VerifiedCache
    ) -> list[ExecutedChunk]:
        """Return what each chunk brings about."""
        self.tasks = tasks
        return super().execute(tasks, verified)


def _run(folder: Path, shards: int) -> Run:
    keys = [
        SecretKey.derive(SecretKey(bytes(32)), f"bench-{i}") for i in range(SENDERS)
    ]
    world = Validators(
        {},
        layer_shards=shards,
        shard_balances={
            (key.public_key, shard): 1000 * ATOMS_PER_COIN
            for key in keys
            for shard in range(1, shards + 1)
        },
    )
    leader, alone, beside = (
        world.open_tree(folder / name) for name in ("leader", "alone", "beside")
    )
    catcher = alone.executor = Catcher()
    with ChunkWorkers(compute_default_workers()) as workers:
        workers.wait_ready(START_S)
        run = Run(shards, len(workers.pids))
        beside.executor = workers
        for number in range(BLOCKS):
            world.build(leader, _build_lots(world, keys, leader, shards, number))
            (held,) = leader.pending
            taken = [len(chunk.transactions) for chunk in held.chunks]
            assert taken == [TRANSFERS // shards] * shards
            _measure_block(run, held, alone, beside)
            for task in catcher.tasks[:1]:
                _measure_part(run, world, alone, held, task)
            certificate = world.certify(held)
            for tree in (leader, alone, beside):
                tree.finalize(certificate)
    return run


def _build_lots(
    world: Validators,
    keys: list[SecretKey],
    tree: BlockTree,
    shards: int,
    number: int,
) -> Lots:
    """Return a block's transfers, the same number in each layer shard."""
    lots: dict[ShardId, list[SignedTransaction]] = {}
    per_sender = TRANSFERS // SENDERS
    for shard in range(1, shards + 1):
        # Each shard has its own part of the senders, as shards have their own users.
        own = keys[shard - 1 :: shards]
        lots[shard] = []
        for index, key in enumerate(own):
            view = ChainView(
                chain_id=world.spec.chain_id,
                params=world.spec.params,
                height=tree.final_height,
                nonces={shard: number * per_sender},
            )
            payload = Transfer(own[index - 1].public_key, shard, 1)
            lots[shard] += build_transactions(
                key, view, [(shard, payload)] * per_sender
            )
    return Lots(lots)


def _measure_block(
    run: Run, held: HeldBlock, alone: BlockTree, beside: BlockTree
) -> None:
    now_ms = held.header.time_ms
    started, cpu = time.perf_counter(), time.process_time()
    hand_bodies(held, alone)
    alone.add(held.block_bytes, now_ms, held.proposal)
    run.alone.append(time.perf_counter() - started)
    run.whole_cpu.append(time.process_time() - cpu)
    started = time.perf_counter()
    hand_bodies(held, beside)
    beside.add(held.block_bytes, now_ms, held.proposal)
    run.beside.append(time.perf_counter() - started)


def _measure_part(
    run: Run, world: Validators, tree: BlockTree, held: HeldBlock, task: ChunkTask
) -> None:
    """Follow one of the block's chunks, believe the others, and endorse it."""
    shard = task.state.shard
    body, epoch = held.block.body, tree.final.child_epoch
    view = tree.final.view
    cpu = time.process_time()
    for chunk in body.chunks:
        validate_chunk_certificate(
            chunk.header,
            chunk.certificate,
            epoch.roles.get_committee(get_slot(chunk.header)),
            epoch.validators,
            world.spec.chain_id,
            bls,
        )
    fresh = ChunkTask(task.context, ShardState(view, shard), task.body, task.limits)
    (executed,) = InProcess().execute([fresh], VerifiedCache())
    after = view.compute_child_with({shard: executed.buckets})
    assert after.get_root(shard) == held.heads[shard].post_root
    run.part_cpu.append(time.process_time() - cpu)
    witness = encode_witness(build_witness(ShardState(view, shard), executed.touched))
    run.witness_bytes.append(len(witness))
    judged = JudgeTask(task.context, held.heads[shard], task.body, witness, task.limits)
    cpu = time.process_time()
    InProcess().judge(judged, VerifiedCache())
    run.judge_cpu.append(time.process_time() - cpu)


def _build_figures(run: Run, first: Run) -> list[Figure]:
    name = "1 shard" if run.shards == 1 else f"{run.shards} shards"
    cores = len(os.sched_getaffinity(0))
    unit = "ms CPU/tx"
    part = median(run.part_cpu) * 1000 / TRANSFERS
    ratio = part / (median(first.part_cpu) * 1000 / TRANSFERS)
    gain = median(run.alone) / median(run.beside)
    figures = [
        summarise(
            f"{name}, one process",
            [TRANSFERS / seconds for seconds in run.alone],
            "tx/s",
        )
    ]
    if run.shards > 1:
        figures.append(
            summarise(
                f"{name}, {run.workers} worker beside the node",
                [TRANSFERS / seconds for seconds in run.beside],
                "tx/s",
                f"{format_number(gain)} x; {cores} cores bound it",
            )
        )
    return [
        *figures,
        Figure(
            f"{name}, a node that follows all",
            median(run.whole_cpu) * 1000 / TRANSFERS,
            unit,
        ),
        Figure(
            f"{name}, a node that follows one",
            part,
            unit,
            f"{ratio:.2f} of that with 1 shard; 1/S is {1 / run.shards:.2f}",
        ),
        Figure(
            f"{name}, an endorser of one chunk",
            median(run.judge_cpu) * 1000 * run.shards / TRANSFERS,
            "ms CPU/tx of it",
            f"witness {median(run.witness_bytes) * run.shards / TRANSFERS:.0f} B/tx",
        ),
    ]


def _build_law(first: Run) -> list[Figure]:
    """Return T = r n / c for networks of machines that each have one core for it."""
    rate = TRANSFERS / median(first.judge_cpu)
    figures = []
    for count in VALIDATORS:
        point = compute_point(rate, count)
        gain = point.rate / rate
        note = f"r {format_number(rate)}, n {count}, c {point.members}"
        figures.append(
            Figure(
                f"law T = r n / c, {count} validators",
                point.rate,
                "tx/s",
                f"{note:32} {'#' * round(4 * gain)} {gain:.1f} r",
            )
        )
    return figures

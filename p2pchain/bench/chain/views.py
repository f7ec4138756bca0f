"""
What a view costs one validator, by the number of validators.

One seat (seat.py) hears, in every view, what a real one would hear when
nothing is lost: the leader's block, a Notarize and a Finalize of everybody else, and
the two certificates that everybody else sends.  All signatures are real; the peers'
signing is not measured.  Votes come in a shuffled order, so the certificates that the
seat makes have a quorum's signers, and the votes after the quorum are the late ones.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from chain.execution.held import HeldBlock
from consensus.leader import compute_leader
from consensus.messages import Certificate, Finalize, Kind, Notarize, Propose
from consensus.records import WalRecord
from consensus.wal import encode_records
from p2pchain.bench.chain.seat import Costs, Seat
from p2pchain.bench.chain.validators import Validators, get_past_ms
from p2pchain.bench.lab.lab import BenchError, Lab
from p2pchain.bench.report import Figure, compute_quantile, format_number, summarise
from p2pchain.node.home.wal_file import WalFile, create_wal
from p2pchain.sim.chains.people import NothingWaits
from primitives.codec import encode

SIZES = {4: 40, 32: 16, 100: 8}
"""Views by the number of validators: about as many seconds each."""
CERTIFICATES = 4
"""Different certificates of one subject; everybody's own would take long to make."""
MS = 1000


@dataclass(frozen=True, slots=True)
class ViewCost:
    """What one view took of one seat."""

    is_leader: bool
    costs: Costs

    @property
    def log_bytes(self) -> int:
        """Bytes that the log grew by."""
        return sum(len(encode_records(turn)) for turn in self.costs.turns)


def run_views(lab: Lab) -> list[Figure]:
    """Measure CPU and log of one validator among 4, 32 and 100."""
    figures = []
    for count, views in SIZES.items():
        lab.report(f"{views} views of {count} validators")
        costs = measure_views(lab.folder / f"views-{count}", count, views)
        figures += _build_figures(count, costs, lab.folder / f"log-{count}")
    return figures


def measure_views(folder: Path, count: int, views: int) -> list[ViewCost]:
    """Play views and return what each took of the seat, the first one left out."""
    world = Validators({}, count=count, time_ms=get_past_ms(2 * views + 60))
    luck = random.Random(count)
    author = world.open_tree(folder / "author")
    ours = world.open_tree(folder / "seat")
    epoch = author.epoch
    # Somebody who leads at least once, and not in the first view, which warms up.
    me = next(
        leader
        for view in range(2, views + 1)
        if (leader := compute_leader(epoch.seed, view, epoch.validators))
        != compute_leader(epoch.seed, 1, epoch.validators)
    )
    params = world.genesis.params.consensus
    seat = Seat(world.spec.chain_id, params, world.keys[me], ours)
    assert seat.index == me
    notarization: Certificate | None = None
    results = []
    for view in range(1, views + 1):
        leader = compute_leader(epoch.seed, view, epoch.validators)
        just = () if notarization is None else (notarization,)
        if leader == me:
            propose = seat.propose()
            if propose is None:
                raise BenchError(f"the seat did not propose in view {view}")
            now_ms = time.time_ns() // 1_000_000
            proposal = propose.notarize.proposal
            held = author.get(author.add(propose.block, now_ms, proposal))
        else:
            held = world.build(author, NothingWaits())
            vote = world.notarize(leader, held.proposal)
            seat.hear([encode(Propose(held.block_bytes, vote, just))])
        others = [index for index in range(count) if index != me]
        luck.shuffle(others)
        notarization = _play_votes(world, seat, held, others, luck)
        author.finalize(world.certify(held))
        if ours.final_hash != held.block_hash:
            raise BenchError(f"view {view} is not final at the seat")
        costs = seat.take_costs()
        if view > 1:
            results.append(ViewCost(leader == me, costs))
    return results


def _play_votes(
    world: Validators,
    seat: Seat,
    held: HeldBlock,
    others: list[int],
    luck: random.Random,
) -> Certificate:
    """Let the seat hear everybody's votes and certificates; returns a notarization."""
    proposal = held.proposal
    quorum = 2 * world.count // 3 + 1
    first: list[Certificate] = []
    for kind, cast in (
        (Kind.NOTARIZATION, world.notarize),
        (Kind.FINALIZATION, world.finalize),
    ):
        votes: list[Notarize | Finalize] = [cast(i, proposal) for i in others]
        certificates = [
            world.build_certificate(
                kind, proposal, sorted(luck.sample(range(world.count), quorum))
            )
            for _ in range(CERTIFICATES)
        ]
        first.append(certificates[0])
        heard = [certificates[n % CERTIFICATES] for n in range(len(others))]
        seat.hear([encode(vote) for vote in votes])
        seat.hear([encode(certificate) for certificate in heard])
    return first[0]


def _build_figures(count: int, results: list[ViewCost], log: Path) -> list[Figure]:
    following = [each.costs for each in results if not each.is_leader]
    leading = [each.costs for each in results if each.is_leader]
    block, final = (
        format_number(median(getattr(costs, name) for costs in following) * MS)
        for name in ("block_s", "final_s")
    )
    turns = [turn for each in results for turn in each.costs.turns]
    appends = time_appends(log, turns)
    who = f"{count} validators"
    return [
        summarise(
            f"{who}: CPU of a view",
            [costs.total_s * MS for costs in following],
            "ms",
            f"of it the block {block}, LevelDB {final}",
        ),
        summarise(
            f"{who}: CPU of a view that it leads",
            [costs.total_s * MS for costs in leading],
            "ms",
        ),
        summarise(
            f"{who}: log of a view",
            [float(each.log_bytes) for each in results],
            "bytes",
            f"in {len(turns) / len(results):.0f} writes",
        ),
        Figure(
            f"{who}: write and fsync",
            median(appends) * MS,
            "ms",
            f"p95 {format_number(compute_quantile(appends, 0.95) * MS)}, "
            f"n {len(appends)}",
        ),
    ]


def time_appends(path: Path, turns: list[list[WalRecord]]) -> list[float]:
    """Append what the log took to a log on disk; returns seconds per write."""
    public_key, chain_id = bytes(48), bytes(32)
    create_wal(path, public_key, chain_id)
    samples = []
    with WalFile(path, public_key, chain_id) as wal:
        for turn in turns:
            started = time.perf_counter()
            wal.append(turn)
            samples.append(time.perf_counter() - started)
    return samples

"""
How a shard that goes empties itself into the root shard.

Theory of operation
-------------------
    bucket 0 1 2 ... n        one bounded step per chunk, before anything else
           ^ next             SWEEP packets to the root shard: balances with what still
                              matures, rests of channels, collateral

When it begins, transactions have ended, and whatever arrives is sent on to the root
shard (`receive` of credit.py), so nothing ever comes to be behind `next`, and
one walk is enough.

After the walk the shard waits until every packet that it sent is consumed and every
packet to it too.  From then on none can be under way: only a credit of this shard's own
could still bounce.  It says FAREWELL, with its totals; the root shard lets it go at a
boundary, two epochs on (chain/ledger/layouts.py).  Until then its counters stay, as
headers show them.

Steps are small, so that a big shard costs its last chunks little more than others, and
pause while the root shard is behind.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from chain.errors import StoreError
from chain.ledger.context import Context
from chain.ledger.ledger import Ledger, Totals, get_count, send_packet
from chain.ledger.progress import Progress, get_progress
from chain.records.account import Account
from chain.records.channel import Channel, ChannelStatus
from chain.records.keys import (
    LISTED_COUNT_KEY,
    MIRROR_COUNT_KEY,
    PROGRESS_KEY,
    TOTALS_KEY,
    build_account_key,
    build_channel_key,
    build_consumed_key,
    build_emitted_key,
    build_listed_key,
    build_mirror_key,
    build_pair_key,
    build_registration_key,
    build_work_count_key,
    build_work_key,
)
from chain.records.registration import Registration
from chain.records.resharding import Sweep
from primitives.buckets import Bucket, compute_bucket_count
from primitives.codec import decode
from shards.layout import ROOT_SHARD, ShardSpec
from shards.packet import PacketKind

SWEEP_WORK = 60
"""Work units of a key that goes, with its packet."""
STEP_KEYS = 64
STEP_BUCKETS = 1024
"""Looked at in one chunk, most of them empty; a full tree is walked in 256 chunks."""
STEP_BYTES = 64 * 1024
"""Of the buckets looked at: they are in the chunk's witness."""

ACCOUNT, CHANNEL = build_account_key(b""), build_channel_key(b"")
REGISTRATION = build_registration_key(b"")
DROPPED = frozenset(
    key[:1]
    for key in (
        build_pair_key(b"", b""),
        build_mirror_key(0, b""),
        build_work_key(b"", 0),
        build_work_count_key(b""),
        build_listed_key(0),
        LISTED_COUNT_KEY,
        MIRROR_COUNT_KEY,
    )
)
"""Hold no money and mean nothing without what they are about."""
KEPT = frozenset(
    key[:1]
    for key in (
        build_consumed_key(0),
        build_emitted_key(0),
        TOTALS_KEY,
        PROGRESS_KEY,
    )
)
"""Go with the shard."""


@dataclass(frozen=True, slots=True)
class SweepStep:
    """What a step looked at."""

    work: int
    buckets: range
    """Numbers of the buckets that were looked at, touched or not."""


NO_STEP = SweepStep(0, range(0))


def run_sweeping_step(
    ledger: Ledger,
    context: Context,
    spec: ShardSpec,
    levels: int,
    read_bucket: Callable[[int], Bucket],
) -> SweepStep:
    """Move the next few keys out, or say farewell after the last.

    Args:
        ledger: Nothing was written to it yet.
        context: Of a shard whose grace window is over.
        spec: Of that shard.
        levels: Of its bucket tree.
        read_bucket: Returns a bucket of it, by number.
    """
    progress = get_progress(ledger, spec.changed_epoch)
    if progress.is_done or _is_congested(ledger, context):
        return NO_STEP
    count = compute_bucket_count(levels)
    first = progress.next
    if first == count:
        if _is_quiet(ledger, context):
            _say_farewell(ledger, context)
            ledger.put(PROGRESS_KEY, Progress(spec.changed_epoch, count, True))
            return SweepStep(SWEEP_WORK, range(0))
        return NO_STEP
    keys, size, index = 0, 0, first
    last = min(first + STEP_BUCKETS, count)
    while index < last:
        bucket = read_bucket(index)
        size += sum(len(key) + len(value) for key, value in bucket.items())
        if size > STEP_BYTES and index > first:
            break
        going = sorted(key for key in bucket if key[:1] not in KEPT)
        for key in going[: STEP_KEYS - keys]:
            _move_out(ledger, context, key, bucket[key])
        keys += len(going)
        if keys > STEP_KEYS:
            break
        index += 1
    ledger.put(PROGRESS_KEY, Progress(spec.changed_epoch, index, False))
    seen = range(first, min(index + 1, last))
    return SweepStep(SWEEP_WORK * min(keys, STEP_KEYS) + len(seen), seen)


def _move_out(ledger: Ledger, context: Context, key: bytes, value: bytes) -> None:
    letter = key[:1]
    if letter == ACCOUNT:
        account = decode(Account, value)
        amount = account.balance + account.maturing_amount
        if amount:
            _send(ledger, context, amount, Sweep(key[1:], account.maturing))
    elif letter == CHANNEL:
        channel = decode(Channel, value)
        _send(
            ledger,
            context,
            channel.deposit - channel.settled,
            Sweep(channel.payer, ()),
        )
        closed = msgspec.structs.replace(
            channel, status=ChannelStatus.CLOSED, close_height=context.height
        )
        ledger.archive(closed)
    elif letter == REGISTRATION:
        collateral = decode(Registration, value).collateral
        _send(ledger, context, collateral, Sweep(key[1:], ()))
    elif letter not in DROPPED:
        raise StoreError(f"key {key.hex()} in a shard that goes")
    ledger.delete(key)


def _send(ledger: Ledger, context: Context, amount: int, sweep: Sweep) -> None:
    if amount:
        send_packet(
            ledger,
            context,
            ROOT_SHARD,
            PacketKind.SWEEP,
            amount,
            sweep,
            is_system=True,
        )


def _is_congested(ledger: Ledger, context: Context) -> bool:
    sent = get_count(ledger, build_emitted_key(ROOT_SHARD))
    backlog = sent - context.consumed.get(ROOT_SHARD, 0)
    return backlog >= context.params.backlog_limit


def _is_quiet(ledger: Ledger, context: Context) -> bool:
    """Tell whether no packet from or to this shard is under way."""
    return all(
        get_count(ledger, build_emitted_key(other)) <= context.consumed.get(other, 0)
        and get_count(ledger, build_consumed_key(other))
        >= context.emitted.get(other, 0)
        for other in context.layout.shard_ids
        if other != context.shard
    )


def _say_farewell(ledger: Ledger, context: Context) -> None:
    totals = ledger.get(TOTALS_KEY, Totals) or Totals(0, 0, 0)
    send_packet(
        ledger, context, ROOT_SHARD, PacketKind.FAREWELL, 0, totals, is_system=True
    )

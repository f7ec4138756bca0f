"""
What a shard does when the shards of its model have become others: providers move.

Theory of operation
-------------------
    split of [0, 8) at 3:   registration [4, 8) --MOVE, with its collateral--> new shard
                            registration [1, 8) -- MIRROR --> new shard
                            everything else stays: a balance, a channel or a work record
                            belongs to an account and not to a layer

Every shard of the model walks its list of registrations, a few per chunk, before it
does anything else.  One whose first layer is elsewhere now goes there.  One that stays,
but is mirrored by other shards than those of its range, is a new version that asks all
of them again, as after an update by its owner; answers to the old one are ignored.

The walk compares with the layout as it is, and not with what it was: when the shards
change again in the middle, it begins again, and so it never matters where it was.
"""

import msgspec

from chain.contracts.hosting import send_hosting_end
from chain.contracts.mirror import renew, send_removals
from chain.errors import StoreError
from chain.ledger.context import Context
from chain.ledger.ledger import Ledger, send_packet
from chain.ledger.listing import get_listed, get_listed_count, remove_listed
from chain.ledger.progress import Progress, get_progress
from chain.records.keys import PROGRESS_KEY, build_registration_key
from chain.records.registration import (
    Registration,
    RegistrationStatus,
)
from chain.records.resharding import Move
from shards.layout import ShardSpec
from shards.packet import PacketKind

MOVE_WORK = 60
"""Reading a registration, and up to eight packets about it."""
STEP_REGISTRATIONS = 64
"""Looked at in one chunk: less than a hundredth of a block's work."""


def run_moving_step(ledger: Ledger, context: Context, spec: ShardSpec) -> int:
    """Look at the next few registrations; return the work, 0 if all were seen."""
    progress = get_progress(ledger, spec.changed_epoch)
    if progress.is_done:
        return 0
    count = get_listed_count(ledger)
    place, seen = progress.next, 0
    while place < count and seen < STEP_REGISTRATIONS:
        seen += 1
        if _adapt(ledger, context, place):
            place += 1
        else:
            count -= 1
    is_done = place >= count
    ledger.put(PROGRESS_KEY, Progress(spec.changed_epoch, place, is_done))
    return MOVE_WORK * (seen + 1)


def _adapt(ledger: Ledger, context: Context, place: int) -> bool:
    """Make a registration fit the layout; tell whether it stays here."""
    account = get_listed(ledger, place)
    key = build_registration_key(account)
    registration = ledger.get(key, Registration)
    if registration is None:
        raise StoreError(f"{account.hex()[:16]} is listed and not registered")
    shards = context.layout.shards_of_range(
        registration.model_id, registration.start, registration.end
    )
    if shards[0] != context.shard:
        ledger.delete(key)
        remove_listed(ledger, place)
        send_removals(ledger, context, account, registration.mirrors)
        send_hosting_end(ledger, context, registration)
        going = msgspec.structs.replace(registration, awaiting=(), mirrors=())
        send_packet(
            ledger,
            context,
            shards[0],
            PacketKind.MOVE,
            registration.collateral,
            Move(going),
            is_system=True,
        )
        return False
    is_refused = registration.status == RegistrationStatus.REFUSED
    if not is_refused and tuple(sorted(shards[1:])) != registration.mirrors:
        renew(ledger, context, registration)
    return True

"""
Register: offer a layer range, or change the offer.

The shard of the range's first layer is the home: it locks the collateral and holds
the one writable record.  Every other shard of the range gets a mirror by packet and
answers (see `mirror`); until all have, the registration is PENDING.  The root shard
hears which shards are covered (see `hosting`).

    PENDING --all shards answered yes--> ACTIVE
       \\-----one shard answered no-----> REFUSED, collateral back
    Register again: version + 1, and from the start
"""

from chain.contracts.hosting import send_hosting
from chain.contracts.mirror import send_mirrors, send_removals
from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger, credit, debit
from chain.ledger.listing import append_listed
from chain.ledger.phase import validate_active
from chain.records.keys import build_registration_key
from chain.records.outcome import Event
from chain.records.registration import (
    Register,
    Registration,
    RegistrationStatus,
)
from primitives.types import ShardId
from shards.errors import UnknownLayers

REGISTER_WORK = 300
MAX_RANGE_SHARDS = 8
"""Shards that one registration touches: each costs a packet there and one back."""
ADDRESS_SCHEME = "p2p://"


def compute_register_work(payload: Register) -> int:
    """Return the work units of a registration, mirrors included."""
    return REGISTER_WORK


def compute_register_outflow(ledger: Ledger, sender: bytes, payload: Register) -> int:
    """Return the atoms that leave the sender's balance besides the fee."""
    current = ledger.get(build_registration_key(sender), Registration)
    locked = 0 if current is None else current.collateral
    return max(0, payload.collateral - locked)


def apply_register(
    ledger: Ledger, context: Context, call: Call, payload: Register
) -> None:
    """Create or update the sender's registration in this shard.

    Raises:
        RuleError: shard_retiring, unknown_model, bad_range, wrong_home,
            too_many_shards, bad_address, low_collateral, insufficient_funds,
            congested.
    """
    validate_active(context)
    shards = _compute_shards(context, payload)
    _validate_addresses(payload)
    _validate_collateral(context, payload)
    key = build_registration_key(call.sender)
    current = ledger.get(key, Registration)
    _move_collateral(ledger, context, call, payload, current)
    awaiting = tuple(sorted(shards[1:]))
    registration = Registration(
        account=call.sender,
        model_id=payload.model_id,
        profile=payload.profile,
        start=payload.start,
        end=payload.end,
        input_price=payload.input_price,
        output_price=payload.output_price,
        measured_us=payload.measured_us,
        collateral=payload.collateral,
        payout=payload.payout,
        node_key=payload.node_key,
        addresses=payload.addresses,
        home=context.shard,
        version=1 if current is None else current.version + 1,
        status=RegistrationStatus.PENDING if awaiting else RegistrationStatus.ACTIVE,
        awaiting=awaiting,
        mirrors=awaiting,
        registered_height=(
            context.height if current is None else current.registered_height
        ),
        updated_height=context.height,
    )
    ledger.put(key, registration)
    if current is None:
        append_listed(ledger, call.sender)
    else:
        left = set(current.mirrors) - set(awaiting)
        send_removals(ledger, context, call.sender, left)
    send_mirrors(ledger, context, registration)
    if not awaiting:
        send_hosting(ledger, context, registration, is_system=False)
    kind = "registered" if current is None else "registration_updated"
    ledger.note(Event(kind, call.sender, (call.sender,), payload.collateral))


def _compute_shards(context: Context, payload: Register) -> tuple[ShardId, ...]:
    model = context.models.get(payload.model_id)
    if model is None:
        raise RuleError(
            "unknown_model", f"there is no model {payload.model_id.hex()[:16]}"
        )
    if not payload.start < payload.end <= model.layers:
        raise RuleError(
            "bad_range",
            f"layers [{payload.start}, {payload.end}) of a model of {model.layers}",
        )
    try:
        shards = context.layout.shards_of_range(
            payload.model_id, payload.start, payload.end
        )
    except UnknownLayers as error:
        raise RuleError("bad_range", str(error)) from error
    if shards[0] != context.shard:
        raise RuleError(
            "wrong_home",
            f"layer {payload.start} is in shard {shards[0]}, not {context.shard}",
        )
    if len(shards) > MAX_RANGE_SHARDS:
        raise RuleError(
            "too_many_shards", f"{len(shards)} shards, at most {MAX_RANGE_SHARDS}"
        )
    return shards


def _validate_addresses(payload: Register) -> None:
    for address in payload.addresses:
        if not address.startswith(ADDRESS_SCHEME):
            raise RuleError("bad_address", f"an address starts with {ADDRESS_SCHEME}")
        if not all("!" <= char <= "~" for char in address):
            raise RuleError("bad_address", "an address is printable ASCII")


def _validate_collateral(context: Context, payload: Register) -> None:
    """Check it against the model's minimum and the node's own dearest ticket."""
    params = context.params
    price = max(payload.input_price, payload.output_price)
    ticket = price * (payload.end - payload.start) * params.ticket_tokens
    minimum = max(
        context.models[payload.model_id].min_collateral,
        ticket * params.collateral_tickets,
    )
    if payload.collateral < minimum:
        raise RuleError(
            "low_collateral", f"collateral {payload.collateral} < {minimum}"
        )


def _move_collateral(
    ledger: Ledger,
    context: Context,
    call: Call,
    payload: Register,
    current: Registration | None,
) -> None:
    locked = 0 if current is None else current.collateral
    if payload.collateral > locked:
        debit(ledger, context, call.sender, payload.collateral - locked)
    else:
        credit(ledger, context, call.sender, locked - payload.collateral)

"""What a hop demands of the data that it is asked to compute."""

from dataclasses import dataclass

from msgspec.structs import replace

from chain.records.proof import Receipt
from inference.protocol.activations import compute_digest
from inference.protocol.errors import BadMessage, ReceiptMismatch
from inference.protocol.messages import (
    MAX_HOPS,
    Data,
    Relink,
    SessionTerms,
    SignedInput,
    verify_relink,
)
from inference.protocol.receipts import Range, validate_input, validate_predecessor
from inference.protocol.steps import Schedule, Step
from inference.protocol.terms import get_wire
from primitives.types import EMPTY_HASH


@dataclass(frozen=True, slots=True)
class Held:
    """A step that is here and valid."""

    step: Step
    data: Data
    body: bytes
    in_digest: bytes
    arrived_us: int


def check_data(
    terms: SessionTerms,
    schedule: Schedule,
    work: Range,
    data: Data,
    body: bytes,
    now_us: int,
) -> Held:
    """Return the step if it may come next and everything about it is as agreed.

    Args:
        terms: Of the session.
        schedule: Where it stands.
        work: The open range.
        data: What came.
        body: Hidden states that came with it.
        now_us: Time of the arrival.

    Raises:
        BadMessage: Another step, shape or length, or numbers that are not finite.
        ReceiptMismatch: The range closes and its sender signed for other bytes.
    """
    if data.attempt != terms.attempt or data.step != schedule.number:
        raise BadMessage(f"step {data.step} where {schedule.number} is due")
    step = schedule.check(data.position, data.tokens)
    form = get_wire(terms)
    if not form.is_of(data):
        raise BadMessage("hidden states of another shape or form")
    size = form.compute_size(step.tokens)
    if len(body) != size:
        raise BadMessage(f"{len(body)} bytes where {size} are due")
    if not form.is_finite(body):
        raise BadMessage("hidden states that are not finite numbers")
    if len(data.timings) >= MAX_HOPS:
        raise BadMessage("more hops than a route has")
    in_digest = compute_digest(body)
    if step.closes_range:
        work = work.add(step, 0, in_digest, EMPTY_HASH)
        check_predecessor(terms, work, data.signed_input, data.receipt)
    elif data.signed_input is not None or data.receipt is not None:
        raise BadMessage("a receipt where no range closes")
    return Held(step, data, body, in_digest, now_us)


def check_predecessor(
    terms: SessionTerms,
    work: Range,
    said: SignedInput | None,
    receipt: Receipt | None,
) -> None:
    """Hold what the sender signed against what came.

    Raises:
        ReceiptMismatch: Missing, not signed, or about other bytes.
    """
    if terms.previous is None:
        if said is None or receipt is not None:
            raise ReceiptMismatch("a range closes without the signed input")
        validate_input(said, terms.chain_id, terms.session, terms.signer, work)
        return
    if receipt is None or said is not None:
        raise ReceiptMismatch("a range closes without the hop's receipt")
    validate_predecessor(
        receipt, terms.chain_id, terms.session, terms.previous, terms.start, work
    )


def check_relink(
    terms: SessionTerms,
    relink: Relink,
    first: int,
    schedule: Schedule,
    undone: int | None,
) -> None:
    """Check a change of the route against what was agreed.

    Args:
        terms: In force.
        relink: What came.
        first: Prompt tokens of the terms that opened the session here.
        schedule: Where the session stands.
        undone: First position of a step that can be taken back.

    Raises:
        BadMessage: Anything but the route differs, or it goes on somewhere else.
    """
    new = relink.terms
    allowed = replace(
        terms,
        attempt=new.attempt,
        prompt_tokens=new.prompt_tokens,
        previous=new.previous,
        next=new.next,
    )
    if new != allowed or not verify_relink(relink):
        raise BadMessage("another session's terms, or not signed by their signer")
    if new.attempt <= terms.attempt:
        raise BadMessage(f"attempt {new.attempt} after attempt {terms.attempt}")
    if terms.provider in (new.previous, new.next):
        raise BadMessage("a hop is not its own neighbour")
    position = relink.position
    is_possible = position == undone or schedule.may_begin_at(position)
    if position >= terms.max_positions or not is_possible:
        raise BadMessage(f"position {position} where {schedule.end} is due")
    # More would be answers at the price of prompts.
    if new.prompt_tokens != max(first, position):
        raise BadMessage(f"{new.prompt_tokens} positions at the input price")

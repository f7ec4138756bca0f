"""What a hop says: its messages, made of what it knows."""

from chain.records.proof import Receipt
from inference.hop.books import MAX_US
from inference.hop.checks import Held
from inference.hop.kept_outputs import KeptOutputs
from inference.protocol.messages import (
    Data,
    Fetch,
    Finish,
    HopTiming,
    Kept,
    SessionTerms,
)
from inference.protocol.steps import PREFILL_TOKENS


def build_data(
    terms: SessionTerms,
    held: Held,
    receipt: Receipt | None,
    *,
    queue_us: int,
    compute_us: int,
) -> Data:
    """Return the header of a step's answer.

    Args:
        terms: Of the session.
        held: The step.
        receipt: If it closes a range.
        queue_us: From its arrival to the start of the computation.
        compute_us: What that took.
    """
    step = held.step
    timing = HopTiming(min(queue_us, MAX_US), min(compute_us, MAX_US))
    return Data(
        session=terms.session,
        attempt=terms.attempt,
        step=step.number,
        position=step.position,
        tokens=step.tokens,
        hidden_size=terms.hidden_size,
        dtype=terms.dtype,
        codec=terms.codec,
        timings=(*held.data.timings, timing),
        signed_input=None,
        receipt=receipt if terms.next is not None else None,
    )


def build_finish(
    terms: SessionTerms, finish: Finish, receipt: Receipt | None
) -> Finish:
    """Return the last lap's message, as it goes on.

    Args:
        terms: Of the session.
        finish: As it came.
        receipt: For the last range, if one was open.
    """
    return Finish(
        session=finish.session,
        attempt=finish.attempt,
        steps=finish.steps,
        signed_input=None,
        receipt=receipt if terms.next is not None else None,
        prefix=finish.prefix,
    )


def build_kept(fetch: Fetch, kept: KeptOutputs) -> tuple[Kept, bytes]:
    """Return what was sent on for some positions, and the body that goes with it."""
    body = None
    if fetch.tokens <= PREFILL_TOKENS:
        body = kept.get(fetch.position, fetch.tokens)
    tokens = 0 if body is None else fetch.tokens
    return Kept(fetch.session, fetch.position, tokens), body or b""

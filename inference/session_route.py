"""
What a requester knows of its hops: acceptance, payments, receipts, times.

The session's state machine (inference/session.py) decides when something happens; this
is the account of it, hop by hop.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from chain.contracts.proof import Receipt
from inference.messages import (
    Abort,
    Accept,
    Activity,
    HopTiming,
    RefuseCode,
    SessionTerms,
    SignedInput,
)
from inference.receipts import (
    Contribution,
    Range,
    ReceiptTrail,
    validate_chain,
    validate_own_trail,
)
from inference.session_errors import HopRefused, ReceiptMismatch
from inference.session_events import Effect, OpenHop, PayHop, SendTo
from inference.session_plan import HopPlan, SessionPlan, build_terms
from inference.steps import Prices, Step
from inference.terms import get_contribution, get_prices


@dataclass(slots=True)
class RouteHop:
    """One hop of the session."""

    plan: HopPlan
    terms: SessionTerms
    contribution: Contribution
    prices: Prices
    is_accepted: bool = False
    is_gone: bool = False
    """Nothing more can be sent to it."""
    prepaid_steps: int = 0
    trail: ReceiptTrail = field(default_factory=ReceiptTrail)
    receipt: Receipt | None = None
    """For the range that closes now."""
    receipts: int = 0
    steps: int = 0
    """Answers that came through it."""
    queue_us: int = 0
    compute_us: int = 0
    range_units: int = 0
    """Price of the open range."""
    units: int = 0
    """Paid in this session."""
    due_units: int = 0
    """Price of all steps sent; what is not paid of it is unpaid."""
    activity: Activity | None = None
    """Its reply to the latest probe."""

    @property
    def peer_id(self) -> bytes:
        """Node key."""
        return self.plan.peer_id

    @property
    def name(self) -> str:
        """For people."""
        return self.plan.node_name

    def pays_ahead(self, step: Step) -> bool:
        """Tell whether the hop wants `step` paid before it computes it."""
        return step.number < self.prepaid_steps


class Route:
    """All hops, in order.

    Args:
        plan: The session's plan.
        signer: Public key of the channels' signer.
    """

    def __init__(self, plan: SessionPlan, signer: bytes) -> None:
        self._plan = plan
        self.hops: list[RouteHop] = []
        for index, hop in enumerate(plan.hops):
            terms = build_terms(plan, index, signer)
            self.hops.append(
                RouteHop(hop, terms, get_contribution(terms), get_prices(terms))
            )

    @property
    def last(self) -> RouteHop:
        """The hop that answers."""
        return self.hops[-1]

    def get_culprit(self, peer_id: bytes | None, otherwise: RouteHop) -> RouteHop:
        """Return the hop of that name, if it is one of ours."""
        return next((hop for hop in self.hops if hop.peer_id == peer_id), otherwise)

    # Opening

    def open(self) -> list[Effect]:
        """Return what begins the session at every hop."""
        return [
            OpenHop(index, hop.terms, hop.plan.arrears_units)
            for index, hop in enumerate(self.hops)
        ]

    def accept(self, hop: RouteHop, message: Accept) -> bool:
        """Note an acceptance; True when every hop has accepted.

        Raises:
            HopRefused: It wants more steps ahead than we pay.
        """
        if message.prepaid_steps > self._plan.max_prepaid_steps:
            text = f"{hop.name} wants {message.prepaid_steps} steps ahead"
            raise HopRefused(text, peer_id=hop.peer_id, code=RefuseCode.TERMS)
        hop.prepaid_steps = message.prepaid_steps
        hop.is_accepted = True
        return all(hop.is_accepted for hop in self.hops)

    # Steps and payments

    def count_sent(self, step: Step) -> None:
        """Note that a step is on its way."""
        for hop in self.hops:
            units = hop.prices.compute_units(step)
            hop.due_units += units
            hop.range_units += units

    def count_answer(self, timings: Iterable[HopTiming]) -> None:
        """Note that a step came back, and what the hops say it took."""
        for hop, timing in zip(self.hops, timings, strict=True):
            hop.steps += 1
            hop.queue_us += timing.queue_us
            hop.compute_us += timing.compute_us

    def pay_before(self, step: Step) -> list[Effect]:
        """Pay the hops that want `step` paid ahead."""
        return self._pay(step, [hop for hop in self.hops if hop.pays_ahead(step)])

    def pay_after(self, step: Step) -> list[Effect]:
        """Pay the others."""
        return self._pay(step, [hop for hop in self.hops if not hop.pays_ahead(step)])

    def pay_attested(self, step: Step, culprit: bytes) -> list[Effect]:
        """Pay those of the others whose receipts are here, and not the culprit."""
        honest = [
            hop
            for hop in self.hops
            if hop.receipt is not None
            and hop.peer_id != culprit
            and not hop.pays_ahead(step)
        ]
        return self._pay(step, honest)

    def _pay(self, step: Step, hops: list[RouteHop]) -> list[Effect]:
        effects: list[Effect] = []
        for index, hop in enumerate(self.hops):
            units = hop.prices.compute_units(step)
            if hop in hops and units:
                hop.units += units
                effects.append(PayHop(index, step.number, units))
        return effects

    # Receipts

    def take_receipt(self, hop: RouteHop, receipt: Receipt, *, is_due: bool) -> None:
        """Keep a hop's receipt for the range that closes.

        Raises:
            ReceiptMismatch: None is due, or it is not valid on its own.
        """
        if not is_due or hop.receipt is not None:
            raise ReceiptMismatch("a receipt that is not due", peer_id=hop.peer_id)
        validate_own_trail(receipt, hop.contribution, hop.trail)
        hop.trail = hop.trail.extend(receipt)
        hop.receipt = receipt
        hop.receipts += 1

    def find_unattested(self) -> RouteHop | None:
        """Return the first hop whose receipt is still missing."""
        return next((hop for hop in self.hops if hop.receipt is None), None)

    def close_range(self, signed_input: SignedInput, work: Range) -> None:
        """Check the chain of receipts and begin a new range.

        Raises:
            ReceiptMismatch: A link is broken; carries the hop.
        """
        receipts = [hop.receipt for hop in self.hops if hop.receipt is not None]
        units = [hop.range_units for hop in self.hops]
        validate_chain(receipts, units, signed_input, work)
        for hop in self.hops:
            hop.receipt = None
            hop.range_units = 0

    # The end

    def abort(self, message: Abort) -> list[Effect]:
        """Tell every hop that can still hear it."""
        return [
            SendTo(index, message)
            for index, hop in enumerate(self.hops)
            if not hop.is_gone
        ]

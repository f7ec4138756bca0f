"""
What a requester knows of its hops: acceptance, payments, receipts, times.

The session's state machine (inference/session/session.py) decides when something
happens; this is the account of it, hop by hop.  A hop keeps its number for the whole
session; those that were replaced stay in the account and are heard no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chain.records.proof import Receipt
from inference.device.memory import PAGE_TOKENS
from inference.protocol.codec import Codec
from inference.protocol.codes import Activity, RefuseCode
from inference.protocol.errors import HopRefused, ReceiptMismatch, SessionError
from inference.protocol.messages import Abort, Accept, HopTiming, SessionTerms
from inference.protocol.prefix_keys import derive_secret, name_beginnings, name_scope
from inference.protocol.receipts import (
    Contribution,
    Range,
    ReceiptTrail,
    validate_own_trail,
)
from inference.protocol.steps import Prices, Schedule, Step
from inference.protocol.terms import get_contribution, get_prices, get_schedule
from inference.session.events import Effect, OpenHop, PayHop, SendTo
from inference.session.plan import HopPlan, SessionPlan, build_terms
from primitives.types import EMPTY_HASH


@dataclass(slots=True, eq=False)
class RouteHop:
    """One hop of the session."""

    number: int
    """In the order of joining."""
    plan: HopPlan
    terms: SessionTerms
    """Those that it has accepted, or was asked to accept."""
    contribution: Contribution
    prices: Prices
    is_opened: bool = False
    is_accepted: bool = False
    is_linked: bool = True
    """It has confirmed the neighbours that its terms name."""
    is_gone: bool = False
    """Nothing more can be sent to it, or nothing more is expected of it."""
    is_leaving: bool = False
    """It has asked to be replaced, and somebody can."""
    is_settled: bool = False
    """It has signed for the last range alone, and was paid."""
    is_retired: bool = False
    """It is not in the route any more."""
    error: SessionError | None = None
    """How it was lost."""
    cached: int = 0
    """Positions at the beginning that it had before the session."""
    rolls_back: bool = True
    """Whether it can forget its last positions."""
    dropped: Step | None = None
    """Was under way when the route broke, and has not come again; the hop may have
    computed it."""
    comes_again: bool = True
    """Nobody before it was replaced, so what comes in is as it was."""
    position: int = 0
    """While the route is mended: positions that it has."""
    schedule: Schedule | None = None
    """While it computes positions anew, alone."""
    complaints: int = 0
    """Times that it could not reach its next hop."""
    unlinks: int = 0
    """Times that it said that a neighbour was lost, since a step was complete."""
    is_suspect: bool = False
    """Somebody was replaced who said so, and may have been right."""
    accusations: int = 0
    """Times in this session that it said that a neighbour did wrong."""
    prepaid_steps: int = 0
    trail: ReceiptTrail = field(default_factory=ReceiptTrail)
    receipt: Receipt | None = None
    """For the range that closes now."""
    receipts: int = 0
    steps: int = 0
    """Answers that came through it."""
    queue_us: int = 0
    compute_us: int = 0
    work: Range = field(default_factory=Range)
    """The open range, without digests: what its next receipt is about."""
    units: int = 0
    """Paid in this session."""
    due_units: int = 0
    """Price of all steps that came back."""
    sent_units: int = 0
    """Price of the step under way."""
    activity: Activity | None = None
    """Its reply to the latest probe."""
    probed_us: int = 0
    """When it was asked."""
    reply_us: int = 0
    """How long replies take, smoothed; 0 when there was none."""
    _trail_before: ReceiptTrail = field(default_factory=ReceiptTrail)
    _work_before: Range = field(default_factory=Range)

    @property
    def peer_id(self) -> bytes:
        """Node key."""
        return self.plan.peer_id

    @property
    def name(self) -> str:
        """For people."""
        return self.plan.node_name

    @property
    def unpaid_units(self) -> int:
        """What it may think that it is owed."""
        undone = 0 if self.dropped is None else self.prices.compute_units(self.dropped)
        return self.due_units + self.sent_units + undone - self.units

    # Steps

    def count_sent(self, step: Step) -> None:
        """Note that a step is on its way."""
        self.sent_units = self.prices.compute_units(step)

    def count_answer(self, step: Step, timing: HopTiming) -> None:
        """Note that a step came back, and what the hop says it took."""
        units = self.prices.compute_units(step)
        self.sent_units = 0
        self.dropped = None
        self.comes_again = True
        self.due_units += units
        self._work_before = self.work
        self.work = self.work.add(step, units, b"", b"")
        self.steps += 1
        self.queue_us += timing.queue_us
        self.compute_us += timing.compute_us

    def drop_step(self, step: Step, *, is_answered: bool) -> None:
        """Note that the step under way does not count.

        Args:
            step: Which.
            is_answered: It came back, and was not attested by all.
        """
        self.sent_units = 0
        self.dropped = step
        if is_answered:
            units = self.prices.compute_units(step)
            self.due_units -= units
            self.work = self._work_before
            self.steps -= 1
        if self.receipt is not None:
            self.receipt = None
            self.receipts -= 1
            self.trail = self._trail_before

    # Payments

    def pay_before(self, step: Step) -> list[Effect]:
        """Pay `step` if the hop wants it paid before it computes it."""
        if self.steps >= self.prepaid_steps:
            return []
        return self._pay(step, self.due_units + self.prices.compute_units(step))

    def pay_after(self, step: Step) -> list[Effect]:
        """Pay everything that came back, `step` being the last of it."""
        return self._pay(step, self.due_units)

    def _pay(self, step: Step, total: int) -> list[Effect]:
        units = total - self.units
        if units <= 0:
            return []
        self.units = total
        return [PayHop(self.number, step.number, units)]

    # Receipts

    def take_receipt(self, receipt: Receipt) -> None:
        """Keep the receipt for the range that closes.

        Raises:
            ReceiptMismatch: None is due, or it is not valid on its own.
        """
        if self.receipt is not None:
            raise ReceiptMismatch("a receipt that is not due", peer_id=self.peer_id)
        validate_own_trail(receipt, self.contribution, self.trail)
        self._trail_before = self.trail
        self.trail = self.trail.extend(receipt)
        self.receipt = receipt
        self.receipts += 1

    def is_undone(self, receipt: Receipt) -> bool:
        """Tell whether a receipt is for the step that was dropped, alone.

        A hop may sign for it if what comes in its place is not the same: somebody
        before it was replaced.
        """
        if self.comes_again or self.dropped is None:
            return False
        units = self.prices.compute_units(self.dropped)
        agreed = self.dropped.position, self.dropped.tokens, units, EMPTY_HASH
        return agreed == (*_get_extent(receipt), receipt.previous_hop)

    def take_undone(self, receipt: Receipt) -> list[Effect]:
        """Check that receipt; returns the payment.

        Raises:
            ReceiptMismatch: It is not valid on its own.
        """
        assert self.dropped is not None
        validate_own_trail(receipt, self.contribution, self.trail)
        self.trail = self.trail.extend(receipt)
        self.receipts += 1
        ahead = self.sent_units if self.steps < self.prepaid_steps else 0
        step, self.dropped = self.dropped, None
        self.due_units += receipt.price_units
        self.steps += 1
        return self._pay(step, self.due_units + ahead)

    def take_cut_off(self, receipt: Receipt | None) -> None:
        """Check the receipt for a range that a change of the route cut off.

        Raises:
            ReceiptMismatch: It is missing, too much, or about something else.
        """
        peer_id = self.peer_id
        if receipt is not None:
            validate_own_trail(receipt, self.contribution, self.trail)
            if receipt.previous_hop != EMPTY_HASH:
                raise ReceiptMismatch("a cut-off range with a link", peer_id=peer_id)
            work, said = self.work, _get_extent(receipt)
            agreed = work.first_position, work.tokens, work.units
            if said != agreed:
                text = f"a cut-off range of {said} where {agreed} came back"
                raise ReceiptMismatch(text, peer_id=peer_id)
            self.trail = self.trail.extend(receipt)
            self.work = Range()
            self.receipts += 1
        if self.work.tokens:
            text = f"no receipt for {self.work.tokens} tokens"
            raise ReceiptMismatch(text, peer_id=peer_id)


def _get_extent(receipt: Receipt) -> tuple[int, int, int]:
    return receipt.first_position, receipt.tokens, receipt.price_units


class Route:
    """All hops of a session, and those that compute now.

    Args:
        plan: The session's plan.
        signer: Public key of the channels' signer.
    """

    def __init__(self, plan: SessionPlan, signer: bytes) -> None:
        self.attempt = plan.attempt
        self.prompt_tokens = len(plan.prompt)
        """Positions at the input price in this attempt."""
        self.everyone: list[RouteHop] = []
        self.hops: list[RouteHop] = []
        """Those that compute now, in order."""
        self._plan = plan
        self._signer = signer
        self._secret = b"" if plan.is_text else plan.prefix_secret
        self._names = name_beginnings(self._secret, plan.prompt)
        self.hops = [self._add(hop) for hop in plan.hops]
        self.set_neighbours()

    @property
    def keeps(self) -> bool:
        """Whether hops may keep what they compute.

        What comes behind pages of a hop that is not in the route has no scope.
        """
        return all(hop.plan.source is None for hop in self.everyone)

    @property
    def last(self) -> RouteHop:
        """The hop that answers."""
        return self.hops[-1]

    @property
    def peers(self) -> tuple[bytes, ...]:
        """Node keys, in order."""
        return tuple(hop.peer_id for hop in self.hops)

    def find(self, peer_id: bytes | None) -> RouteHop | None:
        """Return the hop of that name, if it computes now."""
        return next((hop for hop in self.hops if hop.peer_id == peer_id), None)

    # Changes

    def _add(self, plan: HopPlan) -> RouteHop:
        terms = self._build_terms(plan, None, None)
        hop = RouteHop(
            len(self.everyone), plan, terms, get_contribution(terms), get_prices(terms)
        )
        self.everyone.append(hop)
        return hop

    def _build_terms(
        self, plan: HopPlan, previous: bytes | None, following: bytes | None
    ) -> SessionTerms:
        return build_terms(
            self._plan,
            plan,
            self._signer,
            attempt=self.attempt,
            prompt_tokens=self.prompt_tokens,
            previous=previous,
            following=following,
        )

    def leave_alone(self, hops: Sequence[RouteHop], prompt_tokens: int) -> None:
        """Give some hops, in an attempt of their own, terms without neighbours."""
        self.attempt += 1
        self.prompt_tokens = prompt_tokens
        for hop in hops:
            hop.terms = self._build_terms(hop.plan, None, None)

    def set_neighbours(self) -> None:
        """Give every hop the terms that belong to its place in this attempt."""
        names: list[bytes | None] = [None, *self.peers, None]
        for index, hop in enumerate(self.hops):
            hop.terms = self._build_terms(hop.plan, names[index], names[index + 2])

    def replace(
        self, first: int, last: int, plans: Sequence[HopPlan]
    ) -> list[RouteHop]:
        """Put new hops in the place of those from `first` to `last`, both included.

        The new ones are asked alone at first, in an attempt of their own: data comes
        from us and goes back to us.

        Returns:
            Those that left.
        """
        left = self.hops[first : last + 1]
        for hop in left:
            hop.is_retired = True
        for hop in self.hops[last + 1 :]:
            hop.comes_again = False
        self.attempt += 1
        self.hops[first : last + 1] = [self._add(plan) for plan in plans]
        return left

    # Opening

    def open(self, hops: Iterable[RouteHop]) -> list[Effect]:
        """Return what opens the session at hops that do not know of it."""
        effects: list[Effect] = []
        for hop in hops:
            if not hop.is_opened:
                hop.is_opened = True
                effects.append(
                    OpenHop(
                        hop.number,
                        hop.terms,
                        hop.plan,
                        self._names,
                        self._name_scope(hop),
                        self.keeps and self._is_behind_the_first(hop),
                    )
                )
        return effects

    def _name_scope(self, hop: RouteHop) -> bytes:
        """Return what stands for the hops before this one; its names depend on it."""
        if not self._secret:
            return EMPTY_HASH
        plans = [each.plan for each in self.hops[: self.hops.index(hop)]]
        before = ((p.peer_id, p.profile, p.start, p.end) for p in plans)
        codec = self._plan.codec
        # What was computed from coarse states is no beginning of exact ones.
        salt = "" if codec == Codec.RAW else f"codec {codec}"
        return name_scope(derive_secret(self._secret, salt), before)

    def _is_behind_the_first(self, hop: RouteHop) -> bool:
        """Tell whether all hops before this one were there from the beginning.

        Else what it gets may have come through one that is not in its scope.
        """
        before = self.hops[: self.hops.index(hop)]
        return all(each.number < len(self._plan.hops) for each in before)

    def accept(self, hop: RouteHop, message: Accept) -> bool:
        """Note an acceptance; True when every hop has accepted.

        Raises:
            HopRefused: It wants more steps ahead than we pay, or makes no sense.
        """
        if message.prepaid_steps > self._plan.max_prepaid_steps:
            text = f"{hop.name} wants {message.prepaid_steps} steps ahead"
            raise HopRefused(text, peer_id=hop.peer_id, code=RefuseCode.TERMS)
        named = min(self.prompt_tokens - 1, len(self._names) * PAGE_TOKENS)
        if message.cached % PAGE_TOKENS or message.cached > named:
            text = f"{hop.name} has {message.cached} positions, it says"
            raise HopRefused(text, peer_id=hop.peer_id, code=RefuseCode.INVALID)
        hop.prepaid_steps = message.prepaid_steps
        hop.cached, hop.rolls_back = message.cached, message.rolls_back
        hop.is_accepted = True
        return all(hop.is_accepted for hop in self.hops)

    def build_schedule(self) -> Schedule:
        """Return where the session begins, when every hop has accepted."""
        return get_schedule(
            self.hops[0].terms,
            cached=min(hop.cached for hop in self.hops),
            rolls_back=all(hop.rolls_back for hop in self.hops),
        )

    # The end

    def abort(self, message: Abort) -> list[Effect]:
        """Tell every hop, as far as it can still hear it."""
        return [SendTo(hop.number, message) for hop in self.hops]

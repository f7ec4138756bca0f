"""
One session at one provider: a state machine without streams, clocks or processes.

Theory of operation
-------------------
    Open accepted
        |
        v        data, paid up           computed: bill, sign, push on
     WAITING ------------------> COMPUTING -------------------------> WAITING
        |  \\ data, step t-1 unpaid    ^
        |   +-----------> HELD -------+ payment
        | Finish
        v
     FINISHED (memory freed; the last payment may still come) ---> ENDED
     and from everywhere: Abort, a lost requester, a deadline ----> ENDED

The interlock (window 1): step t is computed only when everything up to step t-1 is
paid.  While the channel is young (`prepaid_steps`), step t itself must be paid.  So
the provider never risks more than one step, and billing comes before delivery: the
standing is saved before the answer leaves, so a crash cannot forget what is owed.

There is never more than one step here: the requester cannot have step t+1 before the
answer to step t went through us.  A second one while the first is held or computed is
a duplicate or a lie, and is ignored or ends the session.

A lost neighbour, or one that does wrong, is the requester's affair.  We say so and
wait: it may bring another one with Relink, which begins a new attempt.  What came
before it is settled: the open range is signed for, and a step that was under way is
taken back.  It comes again with the same input, and the answer that we have is sent
again, at the price of one step in all; what else comes in its place is not computed.
Behind a hop that was replaced the input may be another one.  Then we sign for the step
that we had computed, and go on when it is paid.

`handle` takes events and returns effects; the order of effects matters.

Spec: docs/protocol/07-inference.md
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from inference.hop.answers import build_data, build_finish, build_kept
from inference.hop.checks import check_data, check_predecessor
from inference.hop.delivery import Deliveries, Delivery
from inference.hop.events import (
    AbortArrived,
    Compute,
    Computed,
    ComputeFailed,
    DataArrived,
    Effect,
    Event,
    Expired,
    FetchArrived,
    FinishArrived,
    GivingUp,
    KeepPages,
    KeepReceipt,
    LeavingSoon,
    Lost,
    PayArrived,
    PoolChanged,
    ProbeArrived,
    Reached,
    Release,
    RelinkArrived,
    SaveStanding,
    Send,
    Side,
    Violated,
)
from inference.hop.life import HopLife, Phase
from inference.hop.prefix import HopPrefix
from inference.protocol.activations import compute_digest, is_finite
from inference.protocol.codes import AbortCode
from inference.protocol.errors import BadMessage, ReceiptMismatch
from inference.protocol.messages import Fetch, Leaving, Note, Relink

FETCH_BYTES = 1024
"""What the work for a Fetch counts, if nothing is there to be told."""


@dataclass(slots=True, kw_only=True)
class HopSession(HopLife):
    """A session at this hop.

    Args:
        prepaid_steps: Steps at the beginning that are paid before they are computed.
        prefix: What it shares with sessions before and after it; None for nothing.
        may_tell: Whether so many bytes may be said again to this account now.
    """

    prepaid_steps: int
    prefix: HopPrefix | None = None
    may_tell: Callable[[int], bool] = lambda size: True
    _made: Deliveries = field(default_factory=Deliveries)
    _relink: Relink | None = None
    """A change of the route that waits for the computation under way."""
    _told: int = 0
    """Up to where the outputs were fetched, since the last step or change."""
    _comes_again: bool = True
    """Whether the step that was taken back must come as it was."""

    def begin_with(self, outputs: Sequence[bytes], keys: tuple[bytes, ...]) -> None:
        """Take what is kept of the session's beginning.

        Args:
            outputs: Of its first pages, which need not be computed.
            keys: Of these and all further full pages of the prompt.
        """
        if outputs:
            self.kept.put(0, b"".join(outputs))
        if self.prefix is not None:
            self.prefix.begin(keys, len(outputs))

    # Events

    def handle(self, event: Event, now_us: int) -> list[Effect]:
        """Return what is to be done, in order, after `event` at `now_us`."""
        if self.phase is Phase.ENDED:
            return []
        self.now_us = now_us
        match event:
            case DataArrived():
                return self._on_data(event)
            case PayArrived(units):
                self.books.promise(units, self.schedule)
                return self._on_pool()
            case PoolChanged():
                return self._on_pool()
            case Computed():
                return self._on_computed(event)
            case ComputeFailed(code, text):
                if self.phase is not Phase.COMPUTING:
                    return []
                return self._abort(code, text, self.terms.provider)
            case FinishArrived():
                return self._on_finish(event)
            case AbortArrived():
                return self._on_abort(event)
            case ProbeArrived(probe):
                return [Send(Side.REQUESTER, self._get_progress(probe.step))]
            case RelinkArrived(relink):
                return self._on_relink(relink)
            case Reached():
                return self._on_reached(event)
            case FetchArrived(fetch):
                return self._on_fetch(fetch)
            case LeavingSoon():
                return [Send(Side.REQUESTER, Leaving(self.terms.session))]
            case Violated(side, code, text):
                return self._refuse_input(code, text, side)
            case Lost(side):
                return self._on_lost(side)
            case Expired():
                return self._on_expired()
            case GivingUp(code, text):
                return self._abort(code, text, self.terms.provider)
            case _:
                assert_never(event)

    def _on_fetch(self, fetch: Fetch) -> list[Effect]:
        """Say again what was sent on, for who replaces the next hop."""
        kept, body = build_kept(fetch, self.kept)
        if self.phase is Phase.WAITING and body and fetch.position >= self._told:
            # It waits for the others; the same once more is no sign of it.
            self._told = fetch.position + fetch.tokens
            self._set_deadline(self.limits.idle_s)
        if not self.may_tell(max(len(body), FETCH_BYTES)):
            text = "more is fetched than this hop tells again"
            self._bill_unawaited()
            return self._abort(AbortCode.TOO_MUCH, text, None)
        return [Send(Side.REQUESTER, kept, body)]

    # Data and payment

    def _on_data(self, event: DataArrived) -> list[Effect]:
        data = event.data
        if data.attempt < self.terms.attempt or self._relink is not None:
            return []
        if self._has_accused and event.side is not Side.REQUESTER:
            return []
        if event.side is not self.route.data_side:
            text = "data from a side that sends none"
            return self._refuse_input(AbortCode.PROTOCOL, text, event.side)
        if data.step < self.schedule.number:
            return []
        if self._held is not None and data.step == self.schedule.number:
            return []
        if self.phase is not Phase.WAITING:
            text = f"step {data.step} while {self.phase.name.lower()}"
            return self._refuse_input(AbortCode.PROTOCOL, text, event.side)
        work = self.books.work
        try:
            held = check_data(
                self.terms, self.schedule, work, data, event.body, self.now_us
            )
        except BadMessage as error:
            return self._refuse_input(AbortCode.BAD_DATA, str(error), event.side)
        except ReceiptMismatch as error:
            return self._refuse_input(AbortCode.BAD_RECEIPT, str(error), event.side)
        effects: list[Effect] = []
        if self.books.awaits_return and self._made.find(held) is None:
            if self._comes_again:
                text = "another step in the place of one that was to come again"
                return self._refuse_input(AbortCode.BAD_DATA, text, event.side)
            effects = self._keep_undone()
        self._held = held
        self.phase = Phase.HELD
        self._set_deadline(self.limits.payment_s)
        return [*effects, *self._on_pool()]

    def _keep_undone(self) -> list[Effect]:
        """Sign for a step that we computed and that comes in another form."""
        self.books.keep_undone()
        receipt = self.books.cut_off()
        assert receipt is not None
        note = Send(Side.REQUESTER, Note(receipt))
        return [SaveStanding(), note, KeepReceipt(receipt)]

    def _on_pool(self) -> list[Effect]:
        """Claim what was promised; compute when that is enough."""
        self.books.claim()
        if self.phase is not Phase.HELD or self.books.claimed < self._get_required():
            return []
        assert self._held is not None
        self._started_us = self.now_us
        step, made = self._held.step, self._made.find(self._held)
        if made is not None:
            # The step that was taken back: our layers have it, and its answer is here.
            return self._deliver(made.body, made.compute_us)
        self.phase = Phase.COMPUTING
        self._set_deadline(self.limits.compute_s)
        body = bytes(self._form.decode(self._held.body))
        return [Compute(step.position, step.tokens, body)]

    def _get_required(self) -> int:
        """Return the units that must be paid before the held step is computed."""
        assert self._held is not None
        if self.books.steps < self.prepaid_steps:
            return self.books.billed + self.books.compute_units(self._held.step)
        return self.books.billed

    # The answer

    def _on_computed(self, event: Computed) -> list[Effect]:
        if self.phase is not Phase.COMPUTING:
            return []
        assert self._held is not None
        held, terms, form = self._held, self.terms, self._form
        is_whole = len(event.body) == form.compute_raw_size(held.step.tokens)
        if not is_whole or not is_finite(event.body, terms.dtype):
            text = "our own layers gave an answer of a wrong shape or not of numbers"
            return self._abort(AbortCode.INTERNAL, text, terms.provider)
        body = bytes(form.encode(event.body))
        if self._relink is not None:
            # Nobody waits for this answer now, but the step may come again.
            self.books.deliver(held, compute_digest(body), event.compute_us)
            self.books.take_back()
            made = Delivery(held.step, held.in_digest, body, event.compute_us)
            return self._change_route(self._relink, made)
        return self._deliver(body, event.compute_us)

    def _deliver(self, body: bytes, compute_us: int) -> list[Effect]:
        """Bill, sign, and send the held step's answer on."""
        held, terms = self._held, self.terms
        assert held is not None
        step = held.step
        receipt = self.books.deliver(held, compute_digest(body), compute_us)
        self.kept.put(step.position, body)
        self._made.note_sent(Delivery(step, held.in_digest, body, compute_us))
        self._token_us = compute_us // step.tokens
        self._held = None
        self._told = 0
        self.route.schedule = self.schedule.advance(step)
        self.phase = Phase.WAITING
        self._set_deadline(self.limits.idle_s)
        data = build_data(
            terms,
            held,
            receipt,
            queue_us=self._started_us - held.arrived_us,
            compute_us=compute_us,
        )
        effects: list[Effect] = [
            SaveStanding(),
            Send(self.route.answer_side, data, body),
        ]
        if receipt is not None:
            effects += [Send(Side.REQUESTER, Note(receipt)), KeepReceipt(receipt)]
        if self.prefix is not None and step.is_prefill:
            effects += self._keep_pages(*self.prefix.advance(step.end))
        return effects

    def _keep_pages(self, first: int, keys: tuple[bytes, ...]) -> list[Effect]:
        """Let later sessions begin with full pages of this one."""
        if not keys:
            return []
        self.kept.keep_pages(first, keys)
        return [KeepPages(first, keys)]

    # Another route

    def _on_relink(self, relink: Relink) -> list[Effect]:
        is_late = self.phase is Phase.FINISHED
        if is_late or relink.terms.attempt <= self.terms.attempt:
            # Our last receipt has crossed it.
            return []
        undone = self._get_undone()
        position = None if undone is None else undone.step.position
        try:
            self.route.check(relink, position)
        except BadMessage as error:
            return self._refuse_input(AbortCode.PROTOCOL, str(error), Side.REQUESTER)
        if self.phase is Phase.COMPUTING:
            self._relink = relink
            return []
        return self._change_route(relink)

    def _change_route(
        self, relink: Relink, made: Delivery | None = None
    ) -> list[Effect]:
        """Settle the attempt that is over, and look for the new neighbours.

        Args:
            relink: The change.
            made: The step under way, which nobody waits for any more.
        """
        undone = self._get_undone()
        if undone is not None and undone.step.position == relink.position:
            self.books.take_back()
            made = undone
        self._made.change_route(relink.position, made)
        self._comes_again = relink.comes_again
        if self._made.spare is None:
            self.books.keep_undone()
        receipt = self.books.cut_off()
        self.kept.cut(relink.position)
        if self.prefix is not None:
            self.prefix.stop()
        self._relink = self._held = None
        self._told = 0
        self._has_accused = False
        self.phase = Phase.WAITING
        self._set_deadline(self.limits.idle_s)
        effects = [SaveStanding(), *self.route.change(relink, receipt)]
        if receipt is not None:
            effects.append(KeepReceipt(receipt))
        return effects

    def _get_undone(self) -> Delivery | None:
        """Return the last step if it may not have arrived anywhere.

        Whoever sends another one has had its answer.
        """
        can_take_back = self._held is None and self.books.can_take_back
        return self._made.sent if can_take_back else None

    def _on_reached(self, event: Reached) -> list[Effect]:
        if not self.route.is_awaited(event.attempt):
            return []
        return self.route.confirm() if event.is_open else self._on_lost(Side.NEXT)

    # The end

    def _on_finish(self, event: FinishArrived) -> list[Effect]:
        finish, books = event.finish, self.books
        if finish.attempt < self.terms.attempt or self.phase is Phase.FINISHED:
            return []
        if self._has_accused and event.side is not Side.REQUESTER:
            return []
        if event.side is not self.route.data_side:
            text = "Finish from a side that sends no data"
            return self._refuse_input(AbortCode.PROTOCOL, text, event.side)
        if self.phase is not Phase.WAITING or finish.steps != self.schedule.number:
            text = f"Finish after {finish.steps} of {self.schedule.number} steps"
            return self._refuse_input(AbortCode.PROTOCOL, text, event.side)
        receipt = None
        if books.work.tokens:
            try:
                check_predecessor(
                    self.terms, books.work, finish.signed_input, finish.receipt
                )
            except ReceiptMismatch as error:
                return self._refuse_input(AbortCode.BAD_RECEIPT, str(error), event.side)
            receipt = books.sign_range(finish.signed_input, finish.receipt)
        self.phase = Phase.FINISHED
        self._set_deadline(self.limits.settle_s)
        onward = build_finish(self.terms, finish, receipt)
        effects: list[Effect] = []
        if self.prefix is not None:
            kept = self.prefix.finish(finish.prefix, self.schedule.end)
            effects += self._keep_pages(*kept)
        if receipt is not None:
            effects += [SaveStanding(), Send(Side.REQUESTER, Note(receipt))]
        effects += [Send(self.route.answer_side, onward), Release()]
        if receipt is not None:
            effects.append(KeepReceipt(receipt))
        return effects

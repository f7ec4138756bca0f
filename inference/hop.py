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
taken back.  Should the same input come again, the answer that we have is sent again, at
the price of one step in all.

`handle` takes events and returns effects; the order of effects matters.

Spec: docs/protocol/07-inference.md
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import assert_never

from inference.activations import compute_digest, is_finite
from inference.channel_account import ChannelAccount
from inference.hop_books import MAX_US, HopBooks
from inference.hop_checks import Held, check_data, check_predecessor, check_relink
from inference.hop_events import (
    AbortArrived,
    Blame,
    Compute,
    Computed,
    ComputeFailed,
    DataArrived,
    Effect,
    End,
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
    Reach,
    Reached,
    Release,
    RelinkArrived,
    SaveStanding,
    Send,
    Side,
    Violated,
)
from inference.hop_ports import HopLimits
from inference.hop_prefix import HopPrefix
from inference.kept_outputs import KeptOutputs, OutputBudget
from inference.messages import (
    Abort,
    AbortCode,
    Activity,
    Data,
    Fetch,
    Finish,
    HopTiming,
    Kept,
    Leaving,
    Linked,
    Note,
    Progress,
    Relink,
    SessionTerms,
    Unlinked,
    clip_text,
)
from inference.receipts import Sign
from inference.session_errors import BadMessage, ReceiptMismatch
from inference.steps import PREFILL_TOKENS, Schedule, Step
from inference.terms import get_wire
from inference.wire_form import WireForm

MAX_REPEATS = 16
"""Steps of a session that are computed twice, with another input, at one price: a route
that is mended so often is no accident, and somebody may be trying out inputs."""


class Phase(Enum):
    """Where the session stands."""

    WAITING = auto()
    HELD = auto()
    COMPUTING = auto()
    FINISHED = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class _Delivery:
    """The last step that left, in case that it has to leave again."""

    step: Step
    in_digest: bytes
    body: bytes
    compute_us: int

    def is_answer_to(self, held: Held) -> bool:
        """Tell whether `held` is the same step with the same input."""
        step = held.step
        place = self.step.position, self.step.tokens
        return (*place, self.in_digest) == (step.position, step.tokens, held.in_digest)


@dataclass(slots=True, kw_only=True)
class HopSession:
    """A session at this hop.

    Args:
        terms: What both sides agreed on; a change of the route replaces them.
        schedule: Where the session begins.
        account: The channel's pool, shared with other sessions of the channel.
        prepaid_steps: Steps at the beginning that are paid before they are computed.
        requester: Peer id at the other end of the requester's stream.
        sign: Signs with the node key, `terms.provider`.
        get_expiry: Height after which a receipt signed now is void.
        limits: How long it waits for what.
        now_us: Time of the acceptance, in the caller's monotonic microseconds.
        budget: What may be kept of the outputs, with all other sessions.
        prefix: What it shares with sessions before and after it; None for nothing.
    """

    terms: SessionTerms
    schedule: Schedule
    account: ChannelAccount
    prepaid_steps: int
    requester: bytes
    sign: Sign
    get_expiry: Callable[[], int]
    limits: HopLimits
    now_us: int
    budget: OutputBudget = field(default_factory=OutputBudget)
    prefix: HopPrefix | None = None
    phase: Phase = Phase.WAITING
    deadline_us: int = field(init=False)
    books: HopBooks = field(init=False)
    kept: KeptOutputs = field(init=False)
    _form: WireForm = field(init=False)
    _prompt_tokens: int = field(init=False)
    _held: Held | None = None
    _sent: _Delivery | None = None
    _spare: _Delivery | None = None
    """The answer to a step that was taken back, in case that it comes again."""
    _relink: Relink | None = None
    """A change of the route that waits for the computation under way."""
    _linked: Linked | None = None
    """What to say when the new next hop is reached."""
    _repeats: int = 0
    """Steps that were taken back and came again with another input."""
    _has_accused: bool = False
    """A neighbour did wrong; nothing of it counts until the route has changed."""
    _started_us: int = 0
    _token_us: int = 0
    """What a token took in the last step."""

    def __post_init__(self) -> None:
        terms = self.terms
        self.books = HopBooks(terms, self.account, self.sign, self.get_expiry)
        self._form = get_wire(terms)
        self.kept = KeptOutputs(self.budget, self._form.compute_size(1))
        self._prompt_tokens = terms.prompt_tokens
        self._set_deadline(self.limits.idle_s)

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
                return [self._build_kept(fetch)]
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

    # Data and payment

    def _on_data(self, event: DataArrived) -> list[Effect]:
        data = event.data
        if data.attempt < self.terms.attempt or self._relink is not None:
            return []
        if self._has_accused and event.side is not Side.REQUESTER:
            return []
        if event.side is not self._data_side:
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
        self._held = held
        self.phase = Phase.HELD
        self._set_deadline(self.limits.payment_s)
        return self._on_pool()

    def _on_pool(self) -> list[Effect]:
        """Claim what was promised; compute when that is enough."""
        self.books.claim()
        if self.phase is not Phase.HELD or self.books.claimed < self._get_required():
            return []
        assert self._held is not None
        self._started_us = self.now_us
        step, spare = self._held.step, self._spare
        if spare is not None and spare.is_answer_to(self._held):
            # The step that was taken back: our layers have it, and its answer is here.
            return self._deliver(spare.body, spare.compute_us)
        if spare is not None:
            self._repeats += 1
            if self._repeats > MAX_REPEATS:
                text = f"more than {MAX_REPEATS} steps are made again for nothing"
                return self._refuse_input(AbortCode.PROTOCOL, text, Side.REQUESTER)
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
            made = _Delivery(held.step, held.in_digest, body, event.compute_us)
            return self._change_route(self._relink, made)
        return self._deliver(body, event.compute_us)

    def _deliver(self, body: bytes, compute_us: int) -> list[Effect]:
        """Bill, sign, and send the held step's answer on."""
        held, terms = self._held, self.terms
        assert held is not None
        step = held.step
        receipt = self.books.deliver(held, compute_digest(body), compute_us)
        self.kept.put(step.position, body)
        self._sent = _Delivery(step, held.in_digest, body, compute_us)
        self._token_us = compute_us // step.tokens
        self._held = self._spare = None
        self.schedule = self.schedule.advance(step)
        self.phase = Phase.WAITING
        self._set_deadline(self.limits.idle_s)
        timing = HopTiming(
            queue_us=min(self._started_us - held.arrived_us, MAX_US),
            compute_us=min(compute_us, MAX_US),
        )
        data = Data(
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
        effects: list[Effect] = [SaveStanding(), Send(self._answer_side, data, body)]
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
        if relink.terms.attempt <= self.terms.attempt:
            return []
        undone = self._get_undone()
        position = None if undone is None else undone.step.position
        try:
            if self.phase is Phase.FINISHED:
                raise BadMessage("a change of the route after the last step")
            check_relink(
                self.terms, relink, self._prompt_tokens, self.schedule, position
            )
        except BadMessage as error:
            return self._refuse_input(AbortCode.PROTOCOL, str(error), Side.REQUESTER)
        if self.phase is Phase.COMPUTING:
            self._relink = relink
            return []
        return self._change_route(relink)

    def _change_route(
        self, relink: Relink, made: _Delivery | None = None
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
        self._spare = made or self._spare
        if self._spare is not None and self._spare.step.position != relink.position:
            self._spare = None
        receipt = said = self.books.cut_off()
        if self._linked is not None:
            # The change before this one was never confirmed.
            said = receipt or self._linked.receipt
        self.kept.cut(relink.position)
        if self.prefix is not None:
            self.prefix.stop()
        self._relink = self._held = None
        self._has_accused = False
        self._sent = None
        self.terms = terms = relink.terms
        self.schedule = self.schedule.resume(terms.prompt_tokens, relink.position)
        self.phase = Phase.WAITING
        self._set_deadline(self.limits.idle_s)
        linked = Linked(terms.session, terms.attempt, said)
        self._linked = linked if terms.next is not None else None
        effects: list[Effect] = [SaveStanding(), Reach(terms.attempt, terms.next)]
        if terms.next is None:
            effects.append(Send(Side.REQUESTER, linked))
        if receipt is not None:
            effects.append(KeepReceipt(receipt))
        return effects

    def _get_undone(self) -> _Delivery | None:
        """Return the last step if it may not have arrived anywhere.

        Whoever sends another one has had its answer.
        """
        can_take_back = self._held is None and self.books.can_take_back
        return self._sent if can_take_back else None

    def _on_reached(self, event: Reached) -> list[Effect]:
        if event.attempt != self.terms.attempt or self._linked is None:
            return []
        if not event.is_open:
            return self._on_lost(Side.NEXT)
        linked, self._linked = self._linked, None
        return [Send(Side.REQUESTER, linked)]

    def _build_kept(self, fetch: Fetch) -> Send:
        body = None
        if fetch.tokens <= PREFILL_TOKENS:
            body = self.kept.get(fetch.position, fetch.tokens)
        tokens = 0 if body is None else fetch.tokens
        kept = Kept(self.terms.session, fetch.position, tokens)
        return Send(Side.REQUESTER, kept, body or b"")

    # The end

    def _on_finish(self, event: FinishArrived) -> list[Effect]:
        finish, books = event.finish, self.books
        if finish.attempt < self.terms.attempt or self.phase is Phase.FINISHED:
            return []
        if self._has_accused and event.side is not Side.REQUESTER:
            return []
        if event.side is not self._data_side:
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
        onward = Finish(
            session=finish.session,
            attempt=finish.attempt,
            steps=finish.steps,
            signed_input=None,
            receipt=receipt if self.terms.next is not None else None,
            prefix=finish.prefix,
        )
        effects: list[Effect] = []
        if self.prefix is not None:
            kept = self.prefix.finish(finish.prefix, self.schedule.end)
            effects += self._keep_pages(*kept)
        if receipt is not None:
            effects += [SaveStanding(), Send(Side.REQUESTER, Note(receipt))]
        effects += [Send(self._answer_side, onward), Release()]
        if receipt is not None:
            effects.append(KeepReceipt(receipt))
        return effects

    def _on_abort(self, event: AbortArrived) -> list[Effect]:
        if event.side is Side.REQUESTER:
            return self._end(event.abort.code)
        return self._on_lost(event.side)

    def _on_lost(self, side: Side) -> list[Effect]:
        terms = self.terms
        if side is Side.REQUESTER:
            # After Finish it closes when it has paid.
            code = 0 if self.phase is Phase.FINISHED else AbortCode.PEER_LOST
            return self._end(code)
        peer_id = self._get_peer(side)
        if self.phase is Phase.FINISHED or not peer_id:
            return []
        return [Send(Side.REQUESTER, Unlinked(terms.session, terms.attempt, peer_id))]

    def _on_expired(self) -> list[Effect]:
        match self.phase:
            case Phase.HELD:
                text = f"step {self.schedule.number} waits for its payment"
                return self._abort(AbortCode.UNPAID, text, self.requester)
            case Phase.COMPUTING:
                text = "the stage does not answer"
                return self._abort(AbortCode.TIMEOUT, text, self.terms.provider)
            case Phase.FINISHED:
                return self._end(0)
            case _:
                return self._abort(AbortCode.TIMEOUT, "no step for too long", None)

    def _refuse_input(self, code: AbortCode, text: str, side: Side) -> list[Effect]:
        """Take nothing more of a side that did wrong.

        Of a neighbour we tell the requester, who may bring another one: what we have
        computed so far is as good as before.
        """
        peer_id = self._get_peer(side)
        blame = Blame(peer_id, text)
        if side is Side.REQUESTER or self.phase is Phase.FINISHED:
            return [blame, *self._abort(code, text, peer_id)]
        if self._has_accused:
            return []
        self._has_accused = True
        terms = self.terms
        accusation = Unlinked(
            terms.session, terms.attempt, peer_id, code, clip_text(text)
        )
        return [blame, Send(Side.REQUESTER, accusation)]

    def _abort(self, code: AbortCode, text: str, culprit: bytes | None) -> list[Effect]:
        """Tell the requester, whose affair it is to tell the others."""
        abort = Abort(self.terms.session, code, clip_text(text), culprit or None)
        return [Send(Side.REQUESTER, abort), *self._end(code)]

    def _end(self, code: int) -> list[Effect]:
        """Close the books: cut-off receipt, arrears or change, memory."""
        effects: list[Effect] = []
        receipt = self.books.cut_off()
        if receipt is not None:
            effects.append(KeepReceipt(receipt))
        self.books.settle()
        self.kept.drop()
        if self.phase is not Phase.FINISHED:
            effects.append(Release())
        self.phase = Phase.ENDED
        return [SaveStanding(), *effects, End(self.books.build_account(code))]

    # Neighbours

    @property
    def _data_side(self) -> Side:
        return Side.REQUESTER if self.terms.previous is None else Side.PREVIOUS

    @property
    def _answer_side(self) -> Side:
        return Side.REQUESTER if self.terms.next is None else Side.NEXT

    def _get_peer(self, side: Side) -> bytes:
        match side:
            case Side.REQUESTER:
                return self.requester
            case Side.PREVIOUS:
                return self.terms.previous or b""
            case Side.NEXT:
                return self.terms.next or b""

    def _get_progress(self, step: int) -> Progress:
        left_us = 0
        if step < self.schedule.number:
            activity = Activity.DONE
        elif self.phase is Phase.HELD:
            activity = Activity.NO_PAYMENT
        elif self.phase is Phase.COMPUTING:
            activity = Activity.COMPUTING
            left_us = self._estimate_left_us()
        else:
            activity = Activity.NO_DATA
        return Progress(self.terms.session, step, activity, left_us)

    def _estimate_left_us(self) -> int:
        """Return how long the step under way still takes, by the one before."""
        assert self._held is not None
        expected_us = self._token_us * self._held.step.tokens
        spent_us = self.now_us - self._started_us
        return min(max(0, expected_us - spent_us), MAX_US)

    def _set_deadline(self, seconds: float) -> None:
        self.deadline_us = self.now_us + int(seconds * 1_000_000)

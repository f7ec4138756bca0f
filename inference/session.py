"""
A session as the requester sees it: a state machine without streams or clocks.

Theory of operation
-------------------
    OPENING --all hops accept--> EMBEDDING <------------------------------+
                                     | hidden states: send to first hop   |
                                     v                                    |
                                 IN_FLIGHT                                |
                                     | right shape, finite numbers        | pay all
                                     v                                    | hops, next
                                 SAMPLING (decode and last prefill step)  | step
                                     | token                              |
                                     v                                    |
                                 ATTESTING (a range closes: all receipts) |
                                     | chain of receipts holds -----------+
                                     | last token, or the reader left
                                     v
                                 FINISHING (last lap, last receipts) ---> ENDED

Payment is the answer to a valid answer.  Step t is paid when its hidden states have
the right shape, are finite, gave a token, and, where a range closes, every hop's
receipt is there and the chain from our input to our answer holds; the payment travels
together with step t+1 and costs no round trip.  What fails any of this is not paid,
the session ends with a typed error, and every hop is told.

The last step is paid after the last receipts, since nobody waits for it any more.

Lost is not slow: when an answer takes long, all hops are asked how far they are.  A
hop that does not reply is lost; one that replies has until the step's deadline.

Spec: docs/protocol/07-inference.md
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import assert_never

from chain.contracts.proof import Receipt
from inference.activations import compute_digest, compute_size, is_finite
from inference.errors import WorkerLost
from inference.messages import (
    Abort,
    AbortCode,
    Accept,
    Activity,
    Data,
    Finish,
    HopTiming,
    Note,
    Probe,
    Progress,
    Refuse,
    RefuseCode,
    SessionTerms,
    SignedInput,
    clip_text,
)
from inference.receipts import (
    Contribution,
    Range,
    ReceiptTrail,
    Sign,
    sign_input,
    validate_chain,
    validate_own_trail,
)
from inference.sampling import SampledToken
from inference.session_errors import (
    HopAborted,
    HopLost,
    HopRefused,
    ReceiptMismatch,
    SessionError,
    StepTimeout,
    WrongAnswer,
)
from inference.session_events import (
    AnswerRejected,
    Blame,
    Cancelled,
    Effect,
    Embed,
    Embedded,
    Emit,
    End,
    Event,
    Expired,
    HopGone,
    LocalFailed,
    OpenHop,
    PayHop,
    Received,
    Sample,
    Sampled,
    SendTo,
)
from inference.session_plan import (
    HopPlan,
    SessionPlan,
    SessionTimeouts,
    TokenEvent,
    build_terms,
)
from inference.steps import Prices, Step, compute_step
from inference.terms import get_contribution, get_prices
from primitives.errors import P2PChainError


class Phase(Enum):
    """Where the session stands."""

    OPENING = auto()
    EMBEDDING = auto()
    IN_FLIGHT = auto()
    SAMPLING = auto()
    ATTESTING = auto()
    FINISHING = auto()
    ENDED = auto()


@dataclass(slots=True)
class Hop:
    """What the requester knows of one hop."""

    plan: HopPlan
    contribution: Contribution
    prices: Prices
    is_accepted: bool = False
    is_gone: bool = False
    prepaid_steps: int = 0
    trail: ReceiptTrail = field(default_factory=ReceiptTrail)
    receipt: Receipt | None = None
    """For the range that closes now."""
    receipts: int = 0
    steps: int = 0
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


class RequesterMachine:
    """One session.

    Args:
        plan: Route, prompt and bounds.
        timeouts: How long to wait for what.
        signer: Public key that signs terms and inputs: the channels' signer.
        sign: Signs with it.
        now_us: Start, in the caller's monotonic microseconds.
    """

    def __init__(
        self,
        plan: SessionPlan,
        timeouts: SessionTimeouts,
        signer: bytes,
        sign: Sign,
        now_us: int,
    ) -> None:
        assert plan.hops
        assert plan.prompt
        self.plan = plan
        self.phase = Phase.OPENING
        self.hops = [self._build_hop(index, signer) for index in range(len(plan.hops))]
        self.started_us = now_us
        self.first_token_us = 0
        self.tokens_out = 0
        self.positions = 0
        """Positions that came back as a valid answer."""
        self.deadline_us = 0
        self._timeouts = timeouts
        self._signer = signer
        self._sign = sign
        self._now_us = now_us
        self._step = compute_step(len(plan.prompt), 0)
        self._next_token = 0
        self._work = Range()
        self._in_digest = b""
        self._signed_input: SignedInput | None = None
        self._sent_us = 0
        self._elapsed_us = 0
        self._timings: tuple[HopTiming, ...] = ()
        self._token: SampledToken | None = None
        self._finish_reason = ""
        self._owed: Step | None = None
        """The last step, until its range is attested and it is paid."""
        self._is_lap_done = False
        self._is_probing = False
        self._set_deadline(timeouts.open_s)

    def _build_hop(self, index: int, signer: bytes) -> Hop:
        terms = build_terms(self.plan, index, signer)
        return Hop(self.plan.hops[index], get_contribution(terms), get_prices(terms))

    def open(self) -> list[Effect]:
        """Return what begins the session."""
        return [
            OpenHop(index, self._build_terms(index), hop.plan.arrears_units)
            for index, hop in enumerate(self.hops)
        ]

    def _build_terms(self, index: int) -> SessionTerms:
        return build_terms(self.plan, index, self._signer)

    def handle(self, event: Event, now_us: int) -> list[Effect]:
        """Return what is to be done, in order, after `event` at `now_us`."""
        if self.phase is Phase.ENDED:
            return []
        self._now_us = now_us
        try:
            return self._dispatch(event)
        except SessionError as error:
            return self._fail(error)

    def _dispatch(self, event: Event) -> list[Effect]:
        match event:
            case Received(hop, message, body):
                return self._on_message(hop, message, body)
            case HopGone():
                return self._on_gone(event)
            case Embedded(step, body):
                if self.phase is not Phase.EMBEDDING or step != self._step.number:
                    return []
                return self._send_step(body)
            case Sampled(token):
                if self.phase is not Phase.SAMPLING:
                    return []
                self._token = token
                return self._attest()
            case AnswerRejected(text):
                if self.phase is not Phase.SAMPLING:
                    return []
                raise WrongAnswer(text, peer_id=self.plan.hops[-1].peer_id)
            case LocalFailed(error):
                return self._fail(error)
            case Cancelled():
                return self._on_cancelled()
            case Expired():
                return self._on_expired()
            case _:
                assert_never(event)

    def _on_message(self, index: int, message: object, body: bytes) -> list[Effect]:
        hop = self.hops[index]
        match message:
            case Note(receipt):
                return self._on_receipt(hop, receipt)
            case Accept() if message.session == self.plan.session_id:
                return self._on_accept(hop, message)
            case Refuse() if self.phase is Phase.OPENING and not hop.is_accepted:
                hop.is_gone = True
                raise self._build_refusal(hop, message)
            case Data() if index == len(self.hops) - 1:
                return self._on_answer(message, body)
            case Finish() if index == len(self.hops) - 1:
                return self._on_lap(message)
            case Abort() if message.session == self.plan.session_id:
                hop.is_gone = True
                raise self._build_abort(hop, message)
            case Progress():
                return self._on_progress(hop, message)
        return self._on_gone(
            HopGone(index, f"{type(message).__name__} out of place", is_fault=True)
        )

    # Opening

    def _on_accept(self, hop: Hop, message: Accept) -> list[Effect]:
        if message.prepaid_steps > self.plan.max_prepaid_steps:
            text = f"{message.prepaid_steps} steps ahead are more than we pay"
            raise HopRefused(text, peer_id=hop.plan.peer_id, code=RefuseCode.TERMS)
        hop.prepaid_steps = message.prepaid_steps
        hop.is_accepted = True
        if self.phase is Phase.OPENING and all(hop.is_accepted for hop in self.hops):
            return self._begin_step(0)
        return []

    def _build_refusal(self, hop: Hop, message: Refuse) -> SessionError:
        return HopRefused(
            f"{hop.plan.node_name} refused: {message.text}",
            peer_id=hop.plan.peer_id,
            code=message.code,
            owed_units=message.owed_units,
        )

    # A step

    def _begin_step(self, number: int) -> list[Effect]:
        self._step = step = compute_step(len(self.plan.prompt), number)
        self._token = None
        self.phase = Phase.EMBEDDING
        self._set_deadline(self._timeouts.worker_s)
        if step.is_prefill:
            token_ids = self.plan.prompt[step.position : step.position + step.tokens]
        else:
            token_ids = (self._next_token,)
        return [Embed(step.number, step.position, token_ids)]

    def _send_step(self, body: bytes) -> list[Effect]:
        step, plan = self._step, self.plan
        if len(body) != compute_size(step.tokens, plan.hidden_size, plan.dtype):
            return self._fail(WorkerLost("the embedding has a wrong length"))
        self._in_digest = compute_digest(body)
        self._signed_input = None
        if step.closes_range:
            self._signed_input = self._sign_range(
                self._work.add(step, 0, self._in_digest, b"")
            )
        data = Data(
            session=plan.session_id,
            attempt=plan.attempt,
            step=step.number,
            position=step.position,
            tokens=step.tokens,
            hidden_size=plan.hidden_size,
            dtype=plan.dtype,
            timings=(),
            signed_input=self._signed_input,
            receipt=None,
        )
        self.phase = Phase.IN_FLIGHT
        self._sent_us = self._now_us
        self._is_probing = False
        self._set_deadline(min(self._timeouts.probe_s, self._timeouts.step_s))
        for hop in self.hops:
            units = hop.prices.compute_units(step)
            hop.due_units += units
            hop.range_units += units
        ahead = [
            i for i, hop in enumerate(self.hops) if step.number < hop.prepaid_steps
        ]
        return [*self._pay(ahead, step), SendTo(0, data, body)]

    def _sign_range(self, work: Range) -> SignedInput:
        plan = self.plan
        return sign_input(
            plan.chain_id, plan.session_id, work, self._signer, self._sign
        )

    def _on_answer(self, data: Data, body: bytes) -> list[Effect]:
        step, plan = self._step, self.plan
        if data.attempt < plan.attempt or data.step < step.number:
            return []
        if data.step == step.number and self.phase in (
            Phase.SAMPLING,
            Phase.ATTESTING,
        ):
            return []
        last = self.hops[-1].plan.peer_id
        if self.phase is not Phase.IN_FLIGHT:
            raise WrongAnswer("an answer that nobody asked for", peer_id=last)
        said = (data.session, data.attempt, data.step, data.position, data.tokens)
        due = (plan.session_id, plan.attempt, step.number, step.position, step.tokens)
        if said != due or (data.hidden_size, data.dtype) != (
            plan.hidden_size,
            plan.dtype,
        ):
            raise WrongAnswer("an answer to another step or shape", peer_id=last)
        size = compute_size(step.tokens, plan.hidden_size, plan.dtype)
        if len(body) != size:
            text = f"an answer of {len(body)} bytes where {size} are due"
            raise WrongAnswer(text, peer_id=last)
        if not is_finite(body, plan.dtype):
            raise WrongAnswer("an answer that is not finite numbers", peer_id=last)
        if len(data.timings) != len(self.hops):
            text = f"an answer that went through {len(data.timings)} hops"
            raise WrongAnswer(text, peer_id=last)
        self._elapsed_us = self._now_us - self._sent_us
        self._timings = data.timings
        self._work = self._work.add(step, 0, self._in_digest, compute_digest(body))
        self.positions += step.tokens
        for hop, timing in zip(self.hops, data.timings, strict=True):
            hop.steps += 1
            hop.queue_us += timing.queue_us
            hop.compute_us += timing.compute_us
        is_sampled = step.position + step.tokens >= len(plan.prompt)
        if not is_sampled or self._finish_reason == "cancelled":
            return self._attest()
        self.phase = Phase.SAMPLING
        self._set_deadline(self._timeouts.worker_s)
        return [Sample(body, step.tokens)]

    # Receipts

    def _on_receipt(self, hop: Hop, receipt: Receipt) -> list[Effect]:
        if hop.receipt is not None or self._signed_input is None:
            raise ReceiptMismatch("a receipt that is not due", peer_id=hop.plan.peer_id)
        validate_own_trail(receipt, hop.contribution, hop.trail)
        hop.trail = hop.trail.extend(receipt)
        hop.receipt = receipt
        hop.receipts += 1
        if self.phase is Phase.ATTESTING:
            return self._attest()
        if self.phase is Phase.FINISHING:
            return self._finish_if_done()
        return []

    def _attest(self) -> list[Effect]:
        """Go on when no receipt is due, or all are here and form a chain."""
        if self._step.closes_range:
            if any(hop.receipt is None for hop in self.hops):
                if self.phase is not Phase.ATTESTING:
                    self.phase = Phase.ATTESTING
                    self._set_deadline(self._timeouts.receipts_s)
                return []
            self._close_range()
        return self._complete_step()

    def _close_range(self) -> None:
        """Check the chain of the range that closes and begin a new range."""
        assert self._signed_input is not None
        receipts = [hop.receipt for hop in self.hops if hop.receipt is not None]
        units = [hop.range_units for hop in self.hops]
        validate_chain(receipts, units, self._signed_input, self._work)
        self._work = Range()
        self._signed_input = None
        for hop in self.hops:
            hop.receipt = None
            hop.range_units = 0

    # After a valid answer

    def _complete_step(self) -> list[Effect]:
        """Pay, show the token, and go on or finish."""
        step, token = self._step, self._token
        effects: list[Effect] = []
        if token is not None:
            effects.append(Emit(self._build_token(token)))
            self._next_token = token.token_id
            if token.finish_reason is not None and not self._finish_reason:
                self._finish_reason = token.finish_reason
            elif self.tokens_out >= self.plan.max_tokens and not self._finish_reason:
                self._finish_reason = "length"
        if self._finish_reason:
            if not step.closes_range:
                self._owed = step
                return [*effects, *self._begin_finish(step.number + 1)]
            finish = self._begin_finish(step.number + 1)
            return [*finish, *self._pay_after(step), *effects]
        # The next step goes first: payments and the reader ride in its shadow.
        return [*self._begin_step(step.number + 1), *self._pay_after(step), *effects]

    def _build_token(self, token: SampledToken) -> TokenEvent:
        self.tokens_out += 1
        if not self.first_token_us:
            self.first_token_us = self._now_us - self.started_us
        step = self._step
        reason = token.finish_reason
        if reason is None and self.tokens_out >= self.plan.max_tokens:
            reason = "length"
        return TokenEvent(
            token_id=token.token_id,
            text=token.text,
            finish_reason=reason,
            step=step.number,
            position=step.position + step.tokens,
            elapsed_us=self._elapsed_us,
            hops=self._timings,
        )

    def _pay_before(self, step: Step) -> list[Effect]:
        """Pay the hops that want `step` paid ahead."""
        return self._pay(
            [i for i, hop in enumerate(self.hops) if step.number < hop.prepaid_steps],
            step,
        )

    def _pay_after(self, step: Step) -> list[Effect]:
        """Pay the hops that did not want `step` paid ahead."""
        return self._pay(
            [i for i, hop in enumerate(self.hops) if step.number >= hop.prepaid_steps],
            step,
        )

    def _pay(self, indices: Sequence[int], step: Step) -> list[Effect]:
        effects: list[Effect] = []
        for index in indices:
            hop = self.hops[index]
            units = hop.prices.compute_units(step)
            hop.units += units
            effects.append(PayHop(index, step.number, units))
        return effects

    # The end

    def _begin_finish(self, steps: int) -> list[Effect]:
        self.phase = Phase.FINISHING
        self._set_deadline(self._timeouts.finish_s)
        if self._work.tokens:
            self._signed_input = self._sign_range(self._work)
        finish = Finish(
            session=self.plan.session_id,
            attempt=self.plan.attempt,
            steps=steps,
            signed_input=self._signed_input,
            receipt=None,
        )
        return [SendTo(0, finish)]

    def _on_lap(self, message: Finish) -> list[Effect]:
        if self.phase is not Phase.FINISHING or message.attempt != self.plan.attempt:
            return []
        self._is_lap_done = True
        return self._finish_if_done()

    def _finish_if_done(self) -> list[Effect]:
        if not self._is_lap_done:
            return []
        if self._signed_input is not None:
            if any(hop.receipt is None for hop in self.hops):
                return []
            self._close_range()
        paid = self._pay_after(self._owed) if self._owed is not None else []
        return [*paid, *self._end(None)]

    def _on_cancelled(self) -> list[Effect]:
        if self._finish_reason:
            return []
        self._finish_reason = "cancelled"
        if self.phase is Phase.OPENING:
            return [*self._abort_all(AbortCode.CANCELLED, ""), *self._end(None)]
        if self.phase is Phase.EMBEDDING:
            return self._begin_finish(self._step.number)
        # A step is under way: it will be paid, then the last lap follows.
        return []

    def _on_gone(self, event: HopGone) -> list[Effect]:
        hop = self.hops[event.hop]
        hop.is_gone = True
        peer_id = hop.plan.peer_id
        if self.phase is Phase.FINISHING and not event.is_fault:
            awaits_lap = event.hop == len(self.hops) - 1 and not self._is_lap_done
            awaits_receipt = self._signed_input is not None and hop.receipt is None
            if not awaits_lap and not awaits_receipt:
                return []
        blame = [Blame(peer_id, event.text)] if event.is_fault else []
        text = f"{hop.plan.node_name} is lost: {event.text}"
        return [*blame, *self._fail(HopLost(text, peer_id=peer_id))]

    def _build_abort(self, hop: Hop, message: Abort) -> SessionError:
        peers = {other.plan.peer_id: other for other in self.hops}
        culprit = peers.get(message.culprit or b"", hop)
        text = f"{hop.plan.node_name}: {message.text}"
        kind = HopLost if message.code == AbortCode.PEER_LOST else HopAborted
        return kind(text, peer_id=culprit.plan.peer_id, code=message.code)

    def _fail(self, error: P2PChainError) -> list[Effect]:
        """End with `error`; what was shown to the reader is still paid."""
        effects: list[Effect] = []
        culprit = error.peer_id if isinstance(error, SessionError) else b""
        if isinstance(error, WrongAnswer | ReceiptMismatch) and culprit:
            effects.append(Blame(culprit, str(error)))
        if self._owed is not None:
            honest = [
                index
                for index, hop in enumerate(self.hops)
                if hop.receipt is not None
                and hop.plan.peer_id != culprit
                and self._owed.number >= hop.prepaid_steps
            ]
            effects += self._pay(honest, self._owed)
        code = AbortCode.CANCELLED
        if isinstance(error, HopLost):
            code = AbortCode.PEER_LOST
        elif isinstance(error, WrongAnswer):
            code = AbortCode.BAD_DATA
        elif isinstance(error, ReceiptMismatch):
            code = AbortCode.BAD_RECEIPT
        elif isinstance(error, StepTimeout):
            code = AbortCode.TIMEOUT
        effects += self._abort_all(code, str(error), culprit)
        return [*effects, *self._end(error)]

    def _abort_all(
        self, code: AbortCode, text: str, culprit: bytes = b""
    ) -> list[Effect]:
        abort = Abort(self.plan.session_id, code, clip_text(text), culprit or None)
        return [
            SendTo(index, abort)
            for index, hop in enumerate(self.hops)
            if not hop.is_gone
        ]

    def _end(self, error: P2PChainError | None) -> list[Effect]:
        self.phase = Phase.ENDED
        return [End(self._finish_reason or "error", error)]

    # Deadlines

    def _on_expired(self) -> list[Effect]:
        match self.phase:
            case Phase.OPENING:
                silent = next(hop for hop in self.hops if not hop.is_accepted)
                text = f"{silent.plan.node_name} did not accept in time"
                raise HopLost(text, peer_id=silent.plan.peer_id)
            case Phase.EMBEDDING | Phase.SAMPLING:
                return self._fail(WorkerLost("the requester worker does not answer"))
            case Phase.IN_FLIGHT:
                return self._on_slow_step()
            case Phase.ATTESTING | Phase.FINISHING:
                raise self._build_late_error()
            case _:
                return []

    def _build_late_error(self) -> SessionError:
        for hop in self.hops:
            if self._signed_input is not None and hop.receipt is None:
                text = f"no receipt from {hop.plan.node_name} in time"
                return ReceiptMismatch(text, peer_id=hop.plan.peer_id)
        return StepTimeout("the last lap did not come back in time")

    def _on_slow_step(self) -> list[Effect]:
        """Ask the hops how far they are, or judge what they said."""
        step = self._step.number
        if not self._is_probing:
            self._is_probing = True
            self._set_deadline(self._timeouts.silence_s)
            for hop in self.hops:
                hop.activity = None
            probe = Probe(self.plan.session_id, step)
            return [SendTo(index, probe) for index in range(len(self.hops))]
        self._is_probing = False
        for hop in self.hops:
            if hop.activity is None:
                text = f"{hop.plan.node_name} does not answer"
                raise HopLost(text, peer_id=hop.plan.peer_id)
        left_us = self._sent_us + int(self._timeouts.step_s * 1e6) - self._now_us
        if left_us > 0:
            self.deadline_us = self._now_us + min(
                left_us, int(self._timeouts.probe_s * 1e6)
            )
            return []
        slow = next((h for h in self.hops if h.activity is not Activity.DONE), None)
        hop = slow or self.hops[-1]
        text = f"step {step} took too long at {hop.plan.node_name}"
        raise StepTimeout(text, peer_id=hop.plan.peer_id, code=AbortCode.TIMEOUT)

    def _on_progress(self, hop: Hop, message: Progress) -> list[Effect]:
        if message.step == self._step.number:
            # Any other value shows at least that the hop is there.
            is_done = message.activity == Activity.DONE
            hop.activity = Activity.DONE if is_done else Activity.COMPUTING
        return []

    def _set_deadline(self, seconds: float) -> None:
        self.deadline_us = self._now_us + int(seconds * 1_000_000)

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

from enum import Enum, auto
from typing import assert_never

from chain.contracts.proof import Receipt
from inference.activations import compute_digest, compute_size
from inference.errors import WorkerLost
from inference.messages import (
    Abort,
    AbortCode,
    Accept,
    Activity,
    Data,
    Finish,
    HopTiming,
    Message,
    Note,
    Probe,
    Progress,
    Refuse,
    SignedInput,
    clip_text,
)
from inference.receipts import Range, Sign, sign_input
from inference.sampling import SampledToken
from inference.session_checks import check_answer
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
    Received,
    Sample,
    Sampled,
    SendTo,
)
from inference.session_plan import SessionPlan, SessionTimeouts, TokenEvent
from inference.session_route import Route, RouteHop
from inference.steps import Step, compute_step
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
        self.route = Route(plan, signer)
        self.started_us = now_us
        self.first_token_us = 0
        """From the start to the first token; 0 before it."""
        self.tokens_out = 0
        self.positions = 0
        """Positions that came back as a valid answer."""
        self.deadline_us = 0
        self._token_bytes = compute_size(1, plan.hidden_size, plan.dtype)
        self._timeouts = timeouts
        self._signer = signer
        self._sign = sign
        self._now_us = now_us
        self._step = compute_step(len(plan.prompt), 0)
        self._next_token = 0
        self._token: SampledToken | None = None
        self._finish_reason = ""
        self._sent_us = 0
        self._elapsed_us = 0
        self._timings: tuple[HopTiming, ...] = ()
        self._in_digest = b""
        self._work = Range()
        """The open range, as we sent and received it."""
        self._signed_input: SignedInput | None = None
        """Our word about the range that closes now; receipts are due while it is."""
        self._owed: Step | None = None
        """The last step, until its range is attested and it is paid."""
        self._is_lap_done = False
        self._is_probing = False
        self._set_deadline(timeouts.open_s)

    def open(self) -> list[Effect]:
        """Return what begins the session."""
        return self.route.open()

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
                raise WrongAnswer(text, peer_id=self.route.last.peer_id)
            case LocalFailed(error):
                return self._fail(error)
            case Cancelled():
                return self._on_cancelled()
            case Expired():
                return self._on_expired()
            case _:
                assert_never(event)

    def _on_message(self, index: int, message: Message, body: bytes) -> list[Effect]:
        hop = self.route.hops[index]
        session = getattr(message, "session", self.plan.session_id)
        is_last = hop is self.route.last
        if session == self.plan.session_id:
            match message:
                case Note(receipt):
                    return self._on_receipt(hop, receipt)
                case Accept() if not hop.is_accepted:
                    is_complete = self.route.accept(hop, message)
                    return self._begin_step(0) if is_complete else []
                case Refuse() if not hop.is_accepted:
                    hop.is_gone = True
                    raise _build_refusal(hop, message)
                case Data() if is_last:
                    return self._on_answer(message, body)
                case Finish() if is_last:
                    return self._on_lap(message)
                case Abort():
                    hop.is_gone = True
                    raise self._build_abort(hop, message)
                case Progress():
                    return self._on_progress(hop, message)
        text = f"{type(message).__name__} out of place"
        return self._on_gone(HopGone(index, text, is_fault=True))

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
        if step.closes_range:
            self._sign_range(self._work.add(step, 0, self._in_digest, b""))
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
        self.route.count_sent(step)
        return [*self.route.pay_before(step), SendTo(0, data, body)]

    def _sign_range(self, work: Range) -> None:
        plan = self.plan
        self._signed_input = sign_input(
            plan.chain_id, plan.session_id, work, self._signer, self._sign
        )

    def _on_answer(self, data: Data, body: bytes) -> list[Effect]:
        step, plan = self._step, self.plan
        if data.attempt < plan.attempt or data.step < step.number:
            return []
        is_here = self.phase in (Phase.SAMPLING, Phase.ATTESTING, Phase.FINISHING)
        if data.step == step.number and is_here:
            return []
        if self.phase is not Phase.IN_FLIGHT:
            text = "an answer that nobody asked for"
            raise WrongAnswer(text, peer_id=self.route.last.peer_id)
        check_answer(plan, step, data, body)
        self._elapsed_us = self._now_us - self._sent_us
        self._timings = data.timings
        self._work = self._work.add(step, 0, self._in_digest, compute_digest(body))
        self.positions += step.tokens
        self.route.count_answer(data.timings)
        is_sampled = step.position + step.tokens >= len(plan.prompt)
        if not is_sampled or self._finish_reason:
            return self._attest()
        self.phase = Phase.SAMPLING
        self._set_deadline(self._timeouts.worker_s)
        return [Sample(body, step.tokens)]

    # Receipts

    def _on_receipt(self, hop: RouteHop, receipt: Receipt) -> list[Effect]:
        is_due = self._signed_input is not None
        self.route.take_receipt(hop, receipt, is_due=is_due)
        if self.phase is Phase.ATTESTING:
            return self._attest()
        if self.phase is Phase.FINISHING:
            return self._finish_if_done()
        return []

    def _attest(self) -> list[Effect]:
        """Go on when no receipt is due, or all are here and form a chain."""
        if self._signed_input is not None:
            if self.route.find_unattested() is not None:
                if self.phase is not Phase.ATTESTING:
                    self.phase = Phase.ATTESTING
                    self._set_deadline(self._timeouts.receipts_s)
                return []
            self._close_range(self._signed_input)
        return self._complete_step()

    def _close_range(self, signed_input: SignedInput) -> None:
        self.route.close_range(signed_input, self._work)
        self._work = Range()
        self._signed_input = None

    # After a valid answer

    def _complete_step(self) -> list[Effect]:
        """Pay, show the token, and go on or finish."""
        step, token = self._step, self._token
        shown: list[Effect] = []
        if token is not None:
            event = self._build_token(token)
            shown.append(Emit(event))
            self._next_token = token.token_id
            self._finish_reason = self._finish_reason or event.finish_reason or ""
        if not self._finish_reason:
            # The next step goes first: payments and the reader ride in its shadow.
            following = self._begin_step(step.number + 1)
            if token is not None and len(token.embedding) == self._token_bytes:
                # The worker has looked it up already; no need to ask.
                following = self._send_step(token.embedding)
            return [*following, *self.route.pay_after(step), *shown]
        if self._work.tokens:
            self._owed = step
            return [*shown, *self._begin_finish(step.number + 1)]
        finish = self._begin_finish(step.number + 1)
        return [*finish, *self.route.pay_after(step), *shown]

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

    # The end

    def _begin_finish(self, steps: int) -> list[Effect]:
        self.phase = Phase.FINISHING
        self._set_deadline(self._timeouts.finish_s)
        if self._work.tokens:
            self._sign_range(self._work)
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
            if self.route.find_unattested() is not None:
                return []
            self._close_range(self._signed_input)
        paid = self.route.pay_after(self._owed) if self._owed is not None else []
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
        hop = self.route.hops[event.hop]
        hop.is_gone = True
        if self.phase is Phase.FINISHING and not event.is_fault:
            awaits_lap = hop is self.route.last and not self._is_lap_done
            awaits_receipt = self._signed_input is not None and hop.receipt is None
            if not awaits_lap and not awaits_receipt:
                return []
        blame = [Blame(hop.peer_id, event.text)] if event.is_fault else []
        text = f"{hop.name} is lost: {event.text}"
        return [*blame, *self._fail(HopLost(text, peer_id=hop.peer_id))]

    def _build_abort(self, hop: RouteHop, message: Abort) -> SessionError:
        culprit = self.route.get_culprit(message.culprit, hop)
        text = f"{hop.name}: {message.text}"
        kind = HopLost if message.code == AbortCode.PEER_LOST else HopAborted
        return kind(text, peer_id=culprit.peer_id, code=message.code)

    def _fail(self, error: P2PChainError) -> list[Effect]:
        """End with `error`; what was shown to the reader is still paid."""
        effects: list[Effect] = []
        culprit = error.peer_id if isinstance(error, SessionError) else b""
        if isinstance(error, WrongAnswer | ReceiptMismatch) and culprit:
            effects.append(Blame(culprit, str(error)))
        if self._owed is not None:
            effects += self.route.pay_attested(self._owed, culprit)
        code = next(
            (code for kind, code in _ABORT_CODES if isinstance(error, kind)),
            AbortCode.CANCELLED,
        )
        return [
            *effects,
            *self._abort_all(code, str(error), culprit),
            *self._end(error),
        ]

    def _abort_all(
        self, code: AbortCode, text: str, culprit: bytes = b""
    ) -> list[Effect]:
        return self.route.abort(
            Abort(self.plan.session_id, code, clip_text(text), culprit or None)
        )

    def _end(self, error: P2PChainError | None) -> list[Effect]:
        self.phase = Phase.ENDED
        return [End(self._finish_reason or "error", error)]

    # Deadlines

    def _on_expired(self) -> list[Effect]:
        match self.phase:
            case Phase.OPENING:
                hop = next(hop for hop in self.route.hops if not hop.is_accepted)
                text = f"{hop.name} did not accept in time"
                raise HopLost(text, peer_id=hop.peer_id)
            case Phase.EMBEDDING | Phase.SAMPLING:
                return self._fail(WorkerLost("the requester worker does not answer"))
            case Phase.IN_FLIGHT:
                return self._on_slow_step()
            case _:
                raise self._build_late_error()

    def _build_late_error(self) -> SessionError:
        hop = self.route.find_unattested()
        if self._signed_input is not None and hop is not None:
            text = f"no receipt from {hop.name} in time"
            return ReceiptMismatch(text, peer_id=hop.peer_id)
        return StepTimeout("the last lap did not come back in time")

    def _on_slow_step(self) -> list[Effect]:
        """Ask the hops how far they are, or judge what they said."""
        number = self._step.number
        if not self._is_probing:
            self._is_probing = True
            self._set_deadline(self._timeouts.silence_s)
            for hop in self.route.hops:
                hop.activity = None
            probe = Probe(self.plan.session_id, number)
            return [SendTo(index, probe) for index in range(len(self.route.hops))]
        self._is_probing = False
        for hop in self.route.hops:
            if hop.activity is None:
                text = f"{hop.name} does not answer"
                raise HopLost(text, peer_id=hop.peer_id)
        end_us = self._sent_us + int(self._timeouts.step_s * 1_000_000)
        if self._now_us < end_us:
            self._set_deadline(self._timeouts.probe_s)
            self.deadline_us = min(self.deadline_us, end_us)
            return []
        busy = (hop for hop in self.route.hops if hop.activity is not Activity.DONE)
        hop = next(busy, self.route.last)
        text = f"step {number} took too long at {hop.name}"
        raise StepTimeout(text, peer_id=hop.peer_id, code=AbortCode.TIMEOUT)

    def _on_progress(self, hop: RouteHop, message: Progress) -> list[Effect]:
        if message.step == self._step.number:
            # Any other value shows at least that the hop is there.
            is_done = message.activity == Activity.DONE
            hop.activity = Activity.DONE if is_done else Activity.COMPUTING
        return []

    def _set_deadline(self, seconds: float) -> None:
        self.deadline_us = self._now_us + int(seconds * 1_000_000)


_ABORT_CODES = (
    (HopLost, AbortCode.PEER_LOST),
    (WrongAnswer, AbortCode.BAD_DATA),
    (ReceiptMismatch, AbortCode.BAD_RECEIPT),
    (StepTimeout, AbortCode.TIMEOUT),
)
"""What the other hops are told when a session fails."""


def _build_refusal(hop: RouteHop, message: Refuse) -> SessionError:
    return HopRefused(
        f"{hop.name} refused: {message.text}",
        peer_id=hop.peer_id,
        code=message.code,
        owed_units=message.owed_units,
    )

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

    a hop is lost or leaves --> RECOVERING (inference/session_recovery.py)
                                     | another one has its place and its positions
                                     +--> EMBEDDING: the step that was lost, again

Payment is the answer to a valid answer.  Step t is paid when its hidden states have
the right shape, are finite, gave a token, and, where a range closes, every hop's
receipt is there and the chain from our input to our answer holds; the payment travels
together with step t+1 and costs no round trip.  What fails any of this is not paid,
the session ends with a typed error, and every hop is told.

The last step is paid after the last receipts, since nobody waits for it any more.

A loss changes nothing that the reader has: tokens are shown when their step is
complete, and a step that is made again either had no token yet or keeps the one that
was chosen.  A loss in OPENING ends the session, for whoever asked can still choose
another route; one in FINISHING harms only the last receipts.

Spec: docs/protocol/07-inference.md
"""

from enum import Enum, auto
from typing import assert_never

from chain.contracts.proof import Receipt
from inference.errors import WorkerLost
from inference.messages import (
    Abort,
    Accept,
    Data,
    Finish,
    Kept,
    Leaving,
    Linked,
    Message,
    Note,
    Progress,
    Refuse,
    Unlinked,
    clip_text,
)
from inference.prefix_keys import name_beginnings
from inference.receipts import Sign
from inference.session_answer import Answer
from inference.session_codes import AbortCode
from inference.session_errors import (
    HopLost,
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
    Embedded,
    Emit,
    End,
    Event,
    Expired,
    HopGone,
    HopsFound,
    LocalFailed,
    NoHops,
    Received,
    Sampled,
)
from inference.session_plan import SessionPlan, SessionTimeouts
from inference.session_recovery import Recovery
from inference.session_route import Route, RouteHop
from inference.session_track import Track
from inference.session_turns import Turns
from inference.session_verdicts import (
    MAX_FAULTS,
    build_abort,
    build_accusation,
    build_refusal,
    can_be_mended,
    get_abort_code,
    is_fault,
)
from inference.session_watch import Watch
from inference.speculation import Speculation
from primitives.errors import P2PChainError

LAST_LAP_US = 1_000_000
"""For the rest of the last lap once a hop is lost in it: the answer is complete."""


class Phase(Enum):
    """Where the session stands."""

    OPENING = auto()
    EMBEDDING = auto()
    IN_FLIGHT = auto()
    SAMPLING = auto()
    ATTESTING = auto()
    RECOVERING = auto()
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
        can_recover: Whether somebody looks for other hops.
        speculation: Whether steps carry guesses.
    """

    def __init__(
        self,
        plan: SessionPlan,
        timeouts: SessionTimeouts,
        signer: bytes,
        sign: Sign,
        now_us: int,
        *,
        can_recover: bool = False,
        speculation: Speculation = Speculation.OFF,
    ) -> None:
        assert plan.hops
        assert plan.prompt
        self.plan = plan
        self.phase = Phase.OPENING
        self.route = Route(plan, signer)
        self.started_us = now_us
        self.answer = Answer(plan, now_us)
        self.recoveries = 0
        self.turns = Turns(plan, self.answer, self.route.build_schedule(), speculation)
        self._speculation = speculation
        self._timeouts = timeouts
        self._signer = signer
        self._sign = sign
        # A text is one step: whoever wants it begins anew elsewhere.
        self._can_recover = can_recover and not plan.is_text
        self._now_us = now_us
        self._track = self._build_track()
        self._finish_reason = ""
        self._is_owed = False
        """The last step waits for its range to be attested."""
        self._is_lap_done = False
        self._faults = 0
        """Hops that did wrong."""
        self._is_unlinked = False
        """Two hops that are there have lost each other."""
        self._watch: Watch | None = None
        self._recovery: Recovery | None = None
        self._deadline_us = 0
        self._set_deadline(timeouts.open_s)

    @property
    def tokens_out(self) -> int:
        """Tokens that were shown."""
        return len(self.answer.tokens)

    @property
    def cached_tokens(self) -> int:
        """Positions at the beginning that every hop had before the session."""
        return self.turns.schedule.cached

    @property
    def deadline_us(self) -> int:
        """When `Expired` is due."""
        if self.phase is Phase.RECOVERING and self._recovery is not None:
            return self._recovery.deadline_us
        if self.phase is Phase.IN_FLIGHT and self._watch is not None:
            return self._watch.deadline_us
        return self._deadline_us

    def open(self) -> list[Effect]:
        """Return what begins the session."""
        return self.route.open(self.route.hops)

    def handle(self, event: Event, now_us: int) -> list[Effect]:
        """Return what is to be done, in order, after `event` at `now_us`."""
        if self.phase is Phase.ENDED:
            return []
        self._now_us = now_us
        try:
            return [*self._dispatch(event), *self._resume()]
        except (WrongAnswer, ReceiptMismatch) as error:
            return self._reject(error)
        except (SessionError, WorkerLost) as error:
            return self._fail(error)

    def _dispatch(self, event: Event) -> list[Effect]:
        match event:
            case Received(number, message, body):
                hop = self.route.everyone[number]
                return [] if hop.is_retired else self._hear(hop, message, body)
            case HopGone(number, text, is_fault):
                hop = self.route.everyone[number]
                return [] if hop.is_retired else self._miss(hop, text, is_fault)
            case Embedded(step, body):
                return self._on_embedded(step, body)
            case Sampled(choice):
                if self.phase is not Phase.SAMPLING:
                    return []
                self.turns.choice = choice
                return self._attest()
            case AnswerRejected(text):
                if self.phase is not Phase.SAMPLING:
                    return []
                # No token is on its way, as after an answer that did not come.
                self.phase = Phase.IN_FLIGHT
                raise WrongAnswer(text, peer_id=self.route.last.peer_id)
            case HopsFound():
                if self._recovery is None:
                    return []
                return self._recovery.on_found(event, self._now_us)
            case NoHops(search, text):
                if self._recovery is None:
                    return []
                return self._recovery.on_not_found(search, text, self._now_us)
            case LocalFailed(error):
                return self._fail(error)
            case Cancelled():
                return self._on_cancelled()
            case Expired():
                return self._on_expired()
            case _:
                assert_never(event)

    def _hear(self, hop: RouteHop, message: Message, body: bytes) -> list[Effect]:
        session = getattr(message, "session", self.plan.session_id)
        is_last = hop is self.route.last
        if session == self.plan.session_id:
            match message:
                case Note(receipt):
                    return self._on_receipt(hop, receipt)
                case Accept() if not hop.is_accepted:
                    return self._on_accept(hop, message)
                case Refuse() if not hop.is_accepted:
                    return self._lose(hop, build_refusal(hop, message))
                case Data(attempt=attempt) if attempt < hop.terms.attempt:
                    return []
                case Data() if self._recovery is not None:
                    return self._recovery.on_data(hop, message, body, self._now_us)
                case Data() if is_last:
                    return self._on_answer(message, body)
                case Finish() if is_last:
                    return self._on_lap(message)
                case Abort():
                    return self._lose(hop, build_abort(hop, message))
                case Progress():
                    return self._on_progress(hop, message)
                case Kept() if self._recovery is not None:
                    return self._recovery.on_kept(hop, message, body, self._now_us)
                case Linked() if self._recovery is not None:
                    return self._recovery.on_linked(hop, message, self._now_us)
                case Unlinked():
                    return self._on_unlinked(hop, message)
                case Leaving():
                    hop.is_leaving = self._can_recover
                    return []
                case Kept() | Linked():
                    return []
        return self._miss(hop, f"{type(message).__name__} out of place", is_fault=True)

    def _on_accept(self, hop: RouteHop, message: Accept) -> list[Effect]:
        if self._recovery is not None:
            return self._recovery.on_accept(hop, message, self._now_us)
        if not self.route.accept(hop, message):
            return []
        schedule = self.route.build_schedule()
        self.turns = Turns(self.plan, self.answer, schedule, self._speculation)
        return self._recover() if self._must_mend() else self._begin_step()

    # A step

    def _begin_step(self) -> list[Effect]:
        self.turns.begin()
        self.phase = Phase.EMBEDDING
        self._set_deadline(self._timeouts.worker_s)
        ahead = self.turns.take_ahead()
        # Where the worker has looked it up already there is no need to ask.
        return self._send_step(ahead) if ahead else [self.turns.build_embed()]

    def _on_embedded(self, step: int, body: bytes) -> list[Effect]:
        if self._recovery is not None:
            return self._recovery.on_embedded(step, body, self._now_us)
        if self.phase is not Phase.EMBEDDING or step != self.turns.step.number:
            return []
        return self._send_step(body)

    def _send_step(self, body: bytes) -> list[Effect]:
        step = self.turns.step
        if not self.turns.is_input(body):
            return self._fail(WorkerLost("the embedding has a wrong length"))
        self.phase = Phase.IN_FLIGHT
        self.turns.note_sent(self._now_us)
        self._watch = Watch(
            self._timeouts,
            self.plan.session_id,
            self.route.hops,
            step.number,
            0 if step.is_prefill else self.turns.usual_us,
            self._now_us,
        )
        return self._track.send(step, bytes(self.plan.wire.encode(body)))

    def _on_answer(self, data: Data, body: bytes) -> list[Effect]:
        step = self.turns.step
        if data.step < step.number:
            return []
        is_here = self.phase in (Phase.SAMPLING, Phase.ATTESTING, Phase.FINISHING)
        if data.step == step.number and is_here:
            return []
        if self.phase is not Phase.IN_FLIGHT:
            text = "an answer that nobody asked for"
            raise WrongAnswer(text, peer_id=self.route.last.peer_id)
        self._track.take_answer(data, body)
        self.turns.note_answer(self._now_us)
        if not self.turns.is_chosen_from or self._finish_reason:
            return self._attest()
        self.phase = Phase.SAMPLING
        self._set_deadline(self._timeouts.worker_s)
        return [self.turns.build_sample(bytes(self.plan.wire.decode(body)))]

    # Receipts

    def _on_receipt(self, hop: RouteHop, receipt: Receipt) -> list[Effect]:
        if self._recovery is not None:
            return self._recovery.on_receipt(hop, receipt, self._now_us)
        self._track.take_receipt(hop, receipt)
        if self.phase is Phase.ATTESTING:
            return self._attest()
        if self.phase is Phase.FINISHING:
            return self._finish_if_done()
        return []

    def _attest(self) -> list[Effect]:
        """Go on when no receipt is due, or all are here and form a chain."""
        missing = self._track.find_unattested()
        if missing is None:
            self._track.close_range()
            return self._complete_step()
        if missing.is_gone and not self._finish_reason:
            # It will never come, so the step is made again; its tokens stay.
            return self._recover()
        if self.phase is not Phase.ATTESTING:
            self.phase = Phase.ATTESTING
            self._set_deadline(self._timeouts.receipts_s)
        return []

    # After a valid answer

    def _complete_step(self) -> list[Effect]:
        """Pay, show the tokens, and go on or finish."""
        track = self._track
        events = self.turns.complete(track, self._now_us)
        shown: list[Effect] = [Emit(event) for event in events]
        if events:
            last = events[-1].finish_reason
            self._finish_reason = self._finish_reason or last or ""
        if self._finish_reason:
            gone = next((hop for hop in self.route.hops if hop.is_gone), None)
            if gone is not None and gone.error is not None:
                # Without it there is no last lap; the answer is complete.
                return [*track.pay(), *shown, *self._fail(gone.error)]
            if track.has_open_range:
                self._is_owed = True
                return [*shown, *self._begin_finish()]
            return [*self._begin_finish(), *track.pay(), *shown]
        if self._must_mend():
            paid = track.pay()
            return [*paid, *shown, *self._recover()]
        # The next step goes first: payments and the reader ride in its shadow.
        return [*self._begin_step(), *track.pay(), *shown]

    # Losses

    def _reject(self, error: SessionError) -> list[Effect]:
        """Replace a hop that did wrong, where that helps."""
        hop = self.route.find(error.peer_id)
        if hop is None or hop.is_gone or not self._can_mend(error):
            return self._fail(error)
        try:
            mended = [*self._lose(hop, error), *self._resume()]
        except (SessionError, WorkerLost) as second:
            return self._fail(second)
        return [Blame(hop.peer_id, str(error)), *mended]

    def _can_mend(self, error: SessionError) -> bool:
        """Tell whether the session can go on without the hop that `error` is about."""
        is_early = self.phase is Phase.OPENING
        is_late = self.phase is Phase.FINISHING or bool(self._finish_reason)
        if is_early or is_late or not self._can_recover:
            return False
        if is_fault(error) and self._faults >= MAX_FAULTS:
            return False
        # While the route is mended only replays are under way: nothing is shown.
        is_in_doubt = self._recovery is None and (
            self.turns.choice is not None or self._track.has_earlier_steps
        )
        return can_be_mended(error, is_in_doubt=is_in_doubt)

    def _must_mend(self) -> bool:
        hops = self.route.hops
        is_broken = any(hop.is_gone or hop.is_leaving for hop in hops)
        return is_broken or self._is_unlinked

    def _miss(self, hop: RouteHop, text: str, is_fault: bool) -> list[Effect]:
        """A hop's stream has ended, or brought nonsense."""
        error = HopLost(f"{hop.name} is lost: {text}", peer_id=hop.peer_id)
        if self.phase is Phase.FINISHING and not is_fault:
            hop.is_gone, hop.error = True, error
            awaits_lap = hop is self.route.last and not self._is_lap_done
            is_unattested = self._track.signed_input is not None and hop.receipt is None
            if not awaits_lap and not is_unattested:
                # It may have passed the lap on; nobody waits long for it.
                self._deadline_us = min(self._deadline_us, self._now_us + LAST_LAP_US)
                return []
        blame = [Blame(hop.peer_id, text)] if is_fault else []
        return [*blame, *self._lose(hop, error)]

    def _lose(self, hop: RouteHop, error: SessionError) -> list[Effect]:
        """Mend the route, or fail where that cannot be."""
        can_mend = self._can_mend(error)
        self._faults += is_fault(error)
        if self._recovery is not None and can_mend:
            return self._recovery.lose(hop, error, self._now_us)
        hop.is_gone = True
        hop.error = error
        if not can_mend:
            return self._fail(error)
        if self.phase is Phase.SAMPLING:
            # The tokens are on their way, and do not need the hop.
            return []
        return self._recover()

    def _on_unlinked(self, hop: RouteHop, message: Unlinked) -> list[Effect]:
        if self._recovery is not None:
            return self._recovery.on_unlinked(hop, message, self._now_us)
        peer = self.route.find(message.peer)
        if message.attempt != self.route.attempt or peer is None:
            return []
        if self.phase is Phase.FINISHING and self._is_lap_done:
            return []
        if message.code:
            error = build_accusation(hop, peer, message)
            return self._lose(self.route.find(error.peer_id) or hop, error)
        if not self._can_recover or self.phase is Phase.FINISHING:
            text = f"{peer.name} is lost to {hop.name}"
            return self._lose(peer, HopLost(text, peer_id=peer.peer_id))
        self._is_unlinked = True
        if self.phase in (Phase.OPENING, Phase.SAMPLING):
            return []
        return self._recover()

    def _recover(self) -> list[Effect]:
        """Begin to mend the route; the session goes on behind what is complete."""
        if self.turns.is_under_way:
            self._track.drop()
        self.phase = Phase.RECOVERING
        self.recoveries += 1
        self.answer.note_loss(self._now_us)
        self._is_unlinked = False
        self._recovery = Recovery(
            self.route,
            self.plan,
            self._timeouts,
            self._signer,
            self._sign,
            self.turns.position,
            self.answer.get_ids,
            self._now_us,
        )
        return self._recovery.begin(self._now_us)

    def _resume(self) -> list[Effect]:
        """Make the lost step again, when the route is whole."""
        if self._recovery is None or not self._recovery.is_done:
            return []
        if self.phase is not Phase.RECOVERING:
            return []
        self._recovery = None
        self._track = self._build_track()
        self.turns.resume(self.route.prompt_tokens)
        return self._begin_step()

    def _build_track(self) -> Track:
        return Track(
            self.plan, self.route.hops, self.route.attempt, self._signer, self._sign
        )

    # The end

    def _begin_finish(self) -> list[Effect]:
        self.phase = Phase.FINISHING
        self._set_deadline(self._timeouts.finish_s)
        names: tuple[bytes, ...] = ()
        if not self.recoveries and self.route.keeps:
            # Else some of it was computed behind other hops than these.
            ids = self.answer.get_ids(0, self.turns.position)
            names = name_beginnings(self.plan.prefix_secret, ids)
        return [self._track.finish(self.turns.schedule.number, names)]

    def _on_lap(self, message: Finish) -> list[Effect]:
        if self.phase is not Phase.FINISHING or message.attempt != self.route.attempt:
            return []
        self._is_lap_done = True
        return self._finish_if_done()

    def _finish_if_done(self) -> list[Effect]:
        if not self._is_lap_done or self._track.find_unattested() is not None:
            return []
        self._track.close_range()
        paid = self._track.pay() if self._is_owed else []
        return [*paid, *self._end(None)]

    def _on_cancelled(self) -> list[Effect]:
        if self._finish_reason:
            return []
        self._finish_reason = "cancelled"
        if self.phase in (Phase.OPENING, Phase.RECOVERING):
            return [*self._abort_all(AbortCode.CANCELLED, ""), *self._end(None)]
        if self.phase is Phase.EMBEDDING:
            return self._begin_finish()
        # A step is under way: it will be paid, then the last lap follows.
        return []

    def _fail(self, error: P2PChainError) -> list[Effect]:
        """End with `error`; what was shown to the reader is still paid."""
        effects: list[Effect] = []
        culprit = error.peer_id if isinstance(error, SessionError) else b""
        if isinstance(error, WrongAnswer | ReceiptMismatch) and culprit:
            effects.append(Blame(culprit, str(error)))
        if self._is_owed:
            effects += self._track.pay_attested(culprit)
        return [
            *effects,
            *self._abort_all(get_abort_code(error), str(error), culprit),
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
            case Phase.RECOVERING if self._recovery is not None:
                return self._recovery.expire(self._now_us)
            case _:
                raise self._build_late_error()

    def _build_late_error(self) -> SessionError:
        for hop in self.route.hops:
            if hop.error is not None:
                return hop.error
        missing = self._track.find_unattested()
        if missing is None:
            return StepTimeout("the last lap did not come back in time")
        text = f"no receipt from {missing.name} in time"
        if self.phase is Phase.ATTESTING:
            return ReceiptMismatch(text, peer_id=missing.peer_id)
        # It may be the hop before that did not pass the lap on.
        return StepTimeout(text, peer_id=missing.peer_id)

    def _on_slow_step(self) -> list[Effect]:
        """Ask the hops how far they are, or judge what they said."""
        assert self._watch is not None
        try:
            return self._watch.expire(self._now_us)
        except SessionError as error:
            hop = self.route.find(error.peer_id)
            if hop is None:
                raise
            return self._lose(hop, error)

    def _on_progress(self, hop: RouteHop, message: Progress) -> list[Effect]:
        if self._recovery is not None:
            self._recovery.on_progress(hop, message, self._now_us)
        elif self._watch is not None:
            self._watch.on_progress(hop, message, self._now_us)
        return []

    def _set_deadline(self, seconds: float) -> None:
        self._deadline_us = self._now_us + int(seconds * 1_000_000)

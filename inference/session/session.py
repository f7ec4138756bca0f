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

    a hop is lost or leaves --> RECOVERING (inference/session/recovery.py)
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
another route; in one in FINISHING the others sign for the last range alone.

Spec: docs/protocol/07-inference.md
"""

from typing import assert_never

from chain.records.proof import Receipt
from inference.errors import WorkerLost
from inference.protocol.errors import (
    BrokenChain,
    HopLost,
    ReceiptMismatch,
    SessionError,
    WrongAnswer,
)
from inference.protocol.messages import (
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
)
from inference.session.events import (
    AnswerRejected,
    Blame,
    Cancelled,
    Effect,
    Embedded,
    Emit,
    Event,
    Expired,
    HopGone,
    HopsFound,
    LocalFailed,
    NoHops,
    Received,
    Sampled,
)
from inference.session.life import Phase
from inference.session.mending import SessionMending
from inference.session.route import RouteHop
from inference.session.turns import Turns
from inference.session.verdicts import (
    build_abort,
    build_refusal,
)
from inference.session.watch import Watch


class RequesterMachine(SessionMending):
    """One session: events in, effects out."""

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
                case Linked() if self._settling is not None:
                    return self._on_settled(hop, message)
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
        if hop.is_undone(receipt):
            return hop.take_undone(receipt)
        if self._recovery is not None:
            return self._recovery.on_receipt(hop, receipt, self._now_us)
        self._track.take_receipt(hop, receipt)
        if self.phase is Phase.ATTESTING:
            return self._attest()
        if self.phase is Phase.FINISHING:
            return self._end_settling() or self._finish_if_done()
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
        for hop in self.route.hops:
            hop.unlinks = 0
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
        if hop is None or hop.is_gone:
            return self._fail(error)
        if not self._can_mend(error):
            hop.is_gone, hop.error = True, error
            if isinstance(error, BrokenChain):
                return self._fail(error)
            return self._settle(error)
        try:
            mended = [*self._lose(hop, error), *self._resume()]
        except (SessionError, WorkerLost) as second:
            return self._fail(second)
        return [Blame(hop.peer_id, str(error)), *mended]

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
            case Phase.FINISHING:
                if self._settling is not None:
                    return self._fail(self._settling)
                return self._settle(self._build_late_error())
            case _:
                raise self._build_late_error()

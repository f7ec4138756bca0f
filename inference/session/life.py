"""
What a requester's session has, in which phase it is, and how it ends.

Every end goes the same way: an orderly one makes the last lap and pays what it waited
for; another tells every hop why, and pays for what the reader has.
"""

from enum import Enum, auto

from inference.protocol.codes import AbortCode
from inference.protocol.errors import (
    ReceiptMismatch,
    SessionError,
    StepTimeout,
    WrongAnswer,
)
from inference.protocol.messages import (
    Abort,
    Finish,
    clip_text,
)
from inference.protocol.prefix_keys import name_beginnings
from inference.protocol.receipts import Sign
from inference.sampling.speculation import Speculation
from inference.session.answer import Answer
from inference.session.events import (
    Blame,
    Effect,
    End,
)
from inference.session.plan import SessionPlan, SessionTimeouts
from inference.session.recovery import Recovery
from inference.session.route import Route
from inference.session.track import Track
from inference.session.turns import Turns
from inference.session.verdicts import (
    get_abort_code,
)
from inference.session.watch import Watch
from primitives.errors import P2PChainError


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


class SessionLife:
    """State and end of one session.

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
        self._can_recover = can_recover
        self._now_us = now_us
        self._track = self._build_track()
        self._finish_reason = ""
        self._is_owed = False
        """The last step waits for its range to be attested."""
        self._is_lap_done = False
        self._settling: SessionError | None = None
        """Why the last lap broke; hops that have not signed sign alone now."""
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

    def _build_track(self) -> Track:
        return Track(
            self.plan, self.route.hops, self.route.attempt, self._signer, self._sign
        )

    def _set_deadline(self, seconds: float) -> None:
        self._deadline_us = self._now_us + int(seconds * 1_000_000)

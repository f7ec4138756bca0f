"""
A session's phases at one hop, its deadlines, and how it ends.

    WAITING, HELD, COMPUTING    inference/hop/hop.py moves between these
    FINISHED                    memory freed; the last payment may still come
    ENDED                       the books are closed

Every end closes the books in the same way: a receipt for what was delivered, arrears or
change, and the memory is free.  A neighbour that is lost or does wrong does not end the
session; the requester is told and may bring another one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from inference.hop.books import MAX_US, HopBooks
from inference.hop.channel_account import ChannelAccount
from inference.hop.checks import Held
from inference.hop.events import (
    AbortArrived,
    Blame,
    Effect,
    End,
    KeepReceipt,
    Release,
    SaveStanding,
    Send,
    Side,
)
from inference.hop.kept_outputs import KeptOutputs, OutputBudget
from inference.hop.ports import HopLimits
from inference.hop.route import HopRoute
from inference.protocol.codes import AbortCode, Activity
from inference.protocol.messages import (
    Abort,
    Progress,
    SessionTerms,
    Unlinked,
    clip_text,
)
from inference.protocol.receipts import Sign
from inference.protocol.steps import Schedule
from inference.protocol.terms import get_wire
from inference.protocol.wire_form import WireForm


class Phase(Enum):
    """Where the session stands."""

    WAITING = auto()
    HELD = auto()
    COMPUTING = auto()
    FINISHED = auto()
    ENDED = auto()


@dataclass(slots=True, kw_only=True)
class HopLife:
    """What a session at this hop has, and its ends.

    Args:
        route: Terms, schedule and neighbours.
        account: The channel's pool, shared with other sessions of the channel.
        sign: Signs with the node key, `terms.provider`.
        get_expiry: Height after which a receipt signed now is void.
        limits: How long it waits for what.
        now_us: Time of the acceptance, in the caller's monotonic microseconds.
        budget: What may be kept of the outputs, with all other sessions.
    """

    route: HopRoute
    account: ChannelAccount
    sign: Sign
    get_expiry: Callable[[], int]
    limits: HopLimits
    now_us: int
    budget: OutputBudget = field(default_factory=OutputBudget)
    phase: Phase = Phase.WAITING
    deadline_us: int = field(init=False)
    books: HopBooks = field(init=False)
    kept: KeptOutputs = field(init=False)
    _form: WireForm = field(init=False)
    _held: Held | None = None
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
        self._set_deadline(self.limits.idle_s)

    @property
    def terms(self) -> SessionTerms:
        """Those in force."""
        return self.route.terms

    @property
    def schedule(self) -> Schedule:
        """Where the session stands."""
        return self.route.schedule

    # Ends

    def _on_abort(self, event: AbortArrived) -> list[Effect]:
        if event.side is Side.REQUESTER:
            self._bill_unawaited()
            return self._end(event.abort.code)
        return self._on_lost(event.side)

    def _on_lost(self, side: Side) -> list[Effect]:
        terms = self.terms
        if side is Side.REQUESTER:
            # After Finish it closes when it has paid.
            code = 0 if self.phase is Phase.FINISHED else AbortCode.PEER_LOST
            self._bill_unawaited()
            return self._end(code)
        peer_id = self.route.get_peer(side)
        if self.phase is Phase.FINISHED or not peer_id:
            return []
        return [Send(Side.REQUESTER, Unlinked(terms.session, terms.attempt, peer_id))]

    def _bill_unawaited(self) -> None:
        """Enter the step that is being computed; who asked for it owes it.

        Else a client could have us compute for nothing, by leaving in every step.
        """
        if self.phase is Phase.COMPUTING and self._held is not None:
            self.books.bill_unawaited(self._held)

    def _on_expired(self) -> list[Effect]:
        match self.phase:
            case Phase.HELD:
                text = f"step {self.schedule.number} waits for its payment"
                requester = self.route.get_peer(Side.REQUESTER)
                return self._abort(AbortCode.UNPAID, text, requester)
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
        peer_id = self.route.get_peer(side)
        blame = Blame(peer_id, text)
        if side is Side.REQUESTER or self.phase is Phase.FINISHED:
            self._bill_unawaited()
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
        self.books.keep_undone()
        receipt = self.books.cut_off()
        if receipt is not None:
            effects.append(KeepReceipt(receipt))
        self.books.settle()
        self.kept.drop()
        if self.phase is not Phase.FINISHED:
            effects.append(Release())
        self.phase = Phase.ENDED
        return [SaveStanding(), *effects, End(self.books.build_account(code))]

    # Progress

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

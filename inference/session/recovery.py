"""
Mending a route: from a lost hop to steps that go on, without streams or clocks.

Theory of operation
-------------------
What is missing is found out again after every event, so a second loss in the middle is
no special case.  In this order:

    layers without a hop      find hops for them (the gap may be widened)
    hops that are not open    open them, alone: data from us and back to us
    hops that are behind      have them compute the next positions, in prefill steps of
                              128; what goes in is fetched from the hop before, which
                              keeps what it has sent on, or embedded anew at the first
    hops with old neighbours  tell all hops the new route (Relink), with a new attempt
    nothing                   done: the session makes the lost step again

The replacement is a customer's hop like any other: our signed inputs, its receipts, a
payment per step, at its input price.  The others compute nothing again.  They sign for
the range that the loss cut off and take the lost step back: before the gap it comes
again as it was, and is paid once.  Behind the gap it may come in other bits; who had
computed it signs for it then, and is paid for it and for what comes in its place.

A hop is lost when its stream ends, when it aborts for want of a stage, or when it is
silent (inference/session/watch.py).  Two hops that are there and do not reach each
other are linked anew; who is not reached then is replaced, and after that who does not
reach.
"""

from collections.abc import Callable

from chain.records.proof import Receipt
from inference.errors import WorkerLost
from inference.protocol.codes import AbortCode, RefuseCode
from inference.protocol.errors import (
    HopLost,
    HopRefused,
    SessionError,
)
from inference.protocol.messages import (
    Abort,
    Accept,
    Data,
    Kept,
    Linked,
    Progress,
    Relink,
    Unlinked,
    clip_text,
    compute_relink_message,
)
from inference.protocol.receipts import Sign
from inference.protocol.terms import get_schedule
from inference.session.events import (
    Effect,
    HopsFound,
    SendTo,
)
from inference.session.gap import Gap, find_gap, find_place
from inference.session.losses import Losses
from inference.session.plan import SessionPlan, SessionTimeouts
from inference.session.replay import Replay
from inference.session.route import Route, RouteHop
from inference.session.track import Track
from inference.session.verdicts import build_accusation, get_abort_code
from inference.session.watch import Watch


class Recovery:
    """From a loss to a route that goes on at `position`.

    Args:
        route: The session's hops; gone and leaving ones are marked.
        plan: The session's plan.
        timeouts: How long to wait for what.
        signer: Public key that signs terms and inputs.
        sign: Signs with it.
        position: Every answer came from before it.
        get_tokens: Returns the token ids at positions `first` to `end`.
        now_us: Time of the loss.
    """

    def __init__(
        self,
        route: Route,
        plan: SessionPlan,
        timeouts: SessionTimeouts,
        signer: bytes,
        sign: Sign,
        position: int,
        get_tokens: Callable[[int, int], tuple[int, ...]],
        now_us: int,
    ) -> None:
        self.is_done = False
        self._route = route
        self._plan = plan
        self._timeouts = timeouts
        self._signer = signer
        self._sign = sign
        self._position = position
        self._get_tokens = get_tokens
        self._now_us = now_us
        self._losses = Losses()
        self._gap: Gap | None = None
        """Who is being replaced."""
        self._is_relinked = False
        self._replay: Replay | None = None
        self._watch: Watch | None = None
        self._wait_us = 0
        """Until when the search, the openings or our own worker may take; 0 when
        nothing of the kind is under way."""
        self._end_us = 0
        self._extend()
        route.prompt_tokens = max(len(plan.prompt), position)
        for hop in route.hops:
            hop.position = position
            hop.complaints = 0
            if hop.error is not None:
                self._losses.note(hop.error)

    @property
    def deadline_us(self) -> int:
        """When `expire` is to be called."""
        times = [self._end_us, self._wait_us]
        if self._watch is not None:
            times.append(self._watch.deadline_us)
        return min(time for time in times if time)

    def begin(self, now_us: int) -> list[Effect]:
        """Return what begins the recovery."""
        return self._go_on(now_us)

    # Losses

    def lose(self, hop: RouteHop, error: SessionError, now_us: int) -> list[Effect]:
        """Note that a hop is lost."""
        if hop.is_gone:
            return []
        hop.is_gone = True
        hop.error = error
        self._losses.note(error)
        if self._replay is None:
            self._watch = None
        elif self._replay.depends_on(hop):
            self._give_up_replay()
        self._is_relinked = False
        return self._go_on(now_us)

    def _give_up_replay(self) -> None:
        assert self._replay is not None
        self._replay.drop()
        self._replay = self._watch = None

    def expire(self, now_us: int) -> list[Effect]:
        """Judge who has not answered in time."""
        if now_us >= self._end_us:
            raise self._losses.build_error("the route could not be mended in time")
        if self._wait_us and now_us >= self._wait_us:
            return self._give_up_waiting(now_us)
        if self._watch is None or now_us < self._watch.deadline_us:
            return []
        try:
            return self._watch.expire(now_us)
        except SessionError as error:
            hop = self._route.find(error.peer_id)
            if hop is None:
                raise
            return self.lose(hop, error, now_us)

    def _give_up_waiting(self, now_us: int) -> list[Effect]:
        self._wait_us = 0
        if self._gap is not None:
            raise self._losses.build_error("no other hop was found in time")
        if self._replay is not None:
            raise WorkerLost("the requester worker does not answer")
        for hop in self._route.hops:
            if not hop.is_accepted:
                text = f"{hop.name} did not accept in time"
                return self.lose(hop, HopLost(text, peer_id=hop.peer_id), now_us)
        return []

    # What is missing

    def _go_on(self, now_us: int) -> list[Effect]:
        """Return what is to be done next, if nothing is under way."""
        self._now_us = now_us
        route = self._route
        if self._gap is None:
            gap = find_gap(route.hops)
            if gap is not None:
                return self._search(gap)
        if self._gap is not None:
            return []
        unopened = [hop for hop in route.hops if not hop.is_opened]
        if unopened:
            self._wait_us = self._after(self._timeouts.open_s)
            return route.open(unopened)
        if self._replay is not None or not all(h.is_accepted for h in route.hops):
            return []
        self._wait_us = 0
        behind = (hop for hop in route.hops if hop.position < self._position)
        hop = next(behind, None)
        if hop is not None:
            return self._begin_replay(hop)
        if not self._is_relinked:
            return self._relink()
        self.is_done = all(hop.is_linked for hop in route.hops)
        return []

    # Other hops

    def _search(self, gap: Gap) -> list[Effect]:
        positions = self._route.prompt_tokens
        find = self._losses.build_search(self._route.hops, gap, positions)
        self._gap = gap
        self._wait_us = self._after(self._timeouts.search_s)
        return [find]

    def on_found(self, event: HopsFound, now_us: int) -> list[Effect]:
        """Put the hops that were found in the place of the lost ones."""
        if self._gap is None or event.search != self._losses.searches:
            return []
        place = find_place(self._route.hops, self._gap, event.hops)
        if place is None:
            return self.on_not_found(
                event.search, "what was found does not fit", now_us
            )
        self._gap = None
        self._wait_us = 0
        left = self._route.replace(*place, event.hops)
        self._is_relinked = False
        if self._replay is not None and self._replay.hop.is_retired:
            self._give_up_replay()
        self._extend()
        effects = [self._dismiss(hop) for hop in left]
        return [*effects, *self._go_on(now_us)]

    def _dismiss(self, hop: RouteHop) -> Effect:
        """Tell a hop that was replaced, in case that it can hear it."""
        code = AbortCode.CANCELLED
        if hop.is_gone:
            code = get_abort_code(hop.error) if hop.error else AbortCode.PEER_LOST
        text = clip_text(str(hop.error or "replaced"))
        return SendTo(hop.number, Abort(self._plan.session_id, code, text, None))

    def on_not_found(self, search: int, text: str, now_us: int) -> list[Effect]:
        """Keep those that only wanted to leave; without others it is over."""
        if self._gap is None or search != self._losses.searches:
            return []
        first, last = self._gap
        hops = self._route.hops[first : last + 1]
        leaving = [hop for hop in hops if not hop.is_gone]
        if not leaving:
            raise self._losses.build_error(text)
        for hop in leaving:
            hop.is_leaving = False
        self._gap = None
        self._wait_us = 0
        return self._go_on(now_us)

    def on_accept(self, hop: RouteHop, message: Accept, now_us: int) -> list[Effect]:
        """Note that a replacement is ready."""
        self._route.accept(hop, message)
        before = [h for h in self._route.everyone if h.is_accepted and h is not hop]
        if not hop.rolls_back and all(h.rolls_back for h in before):
            text = f"{hop.name} cannot forget guesses"
            error = HopRefused(text, peer_id=hop.peer_id, code=RefuseCode.TERMS)
            return self.lose(hop, error, now_us)
        hop.schedule = get_schedule(hop.terms, cached=hop.cached)
        hop.position = min(hop.cached, self._position)
        return self._go_on(now_us)

    # Positions that are behind

    def _begin_replay(self, hop: RouteHop) -> list[Effect]:
        """Get what goes into the hop's next step."""
        track = Track(self._plan, (hop,), hop.terms.attempt, self._signer, self._sign)
        replay = Replay(self._plan, self._route, hop, self._position, track)
        self._replay = replay
        if replay.source is None:
            self._wait_us = self._after(self._timeouts.worker_s)
        else:
            self._watch = self._build_watch([replay.source], replay.step.number)
        return [replay.begin(self._get_tokens)]

    def on_embedded(self, step: int, body: bytes, now_us: int) -> list[Effect]:
        """Send on what our own worker has looked up."""
        if self._replay is None:
            return []
        sent = self._replay.take_embedded(step, body)
        if sent:
            self._wait_us = 0
        return self._watch_replay(sent, now_us)

    def on_kept(
        self, hop: RouteHop, kept: Kept, body: bytes, now_us: int
    ) -> list[Effect]:
        """Send on what the hop before had sent to the lost one."""
        if self._replay is None:
            return []
        try:
            sent = self._replay.take_kept(hop, kept, body)
        except HopLost as error:
            return self.lose(hop, error, now_us)
        return self._watch_replay(sent, now_us)

    def _watch_replay(self, sent: list[Effect], now_us: int) -> list[Effect]:
        """Expect an answer if the step was sent."""
        if sent and self._replay is not None:
            self._now_us = now_us
            hop, step = self._replay.hop, self._replay.step
            self._watch = self._build_watch([hop], step.number)
        return sent

    def on_data(
        self, hop: RouteHop, data: Data, body: bytes, now_us: int
    ) -> list[Effect]:
        """Note a replacement's answer."""
        if self._replay is None or hop is not self._replay.hop:
            return []
        self._replay.take_answer(data, body)
        return self._complete_replay(now_us)

    def on_receipt(self, hop: RouteHop, receipt: Receipt, now_us: int) -> list[Effect]:
        """Note a replacement's receipt; others are about steps that do not count."""
        if self._replay is None or hop is not self._replay.hop:
            return []
        self._replay.take_receipt(receipt)
        return self._complete_replay(now_us)

    def _complete_replay(self, now_us: int) -> list[Effect]:
        """Pay and go on, when answer and receipt are here."""
        assert self._replay is not None
        if not self._replay.is_complete:
            return []
        paid = self._replay.complete()
        self._replay = self._watch = None
        self._now_us = now_us
        self._extend()
        return [*paid, *self._go_on(now_us)]

    # The new route

    def _relink(self) -> list[Effect]:
        route = self._route
        route.attempt += 1
        route.set_neighbours()
        self._is_relinked = True
        effects: list[Effect] = []
        for hop in route.hops:
            hop.is_linked = False
            again = hop.comes_again
            effects.append(
                build_relink(hop, self._position, self._sign, comes_again=again)
            )
        self._watch = self._build_watch(route.hops, 0)
        return effects

    def on_linked(self, hop: RouteHop, message: Linked, now_us: int) -> list[Effect]:
        """Note that a hop has its neighbours."""
        is_current = message.attempt == self._route.attempt
        if message.receipt is not None or is_current:
            hop.take_cut_off(message.receipt)
        if not is_current or not self._is_relinked:
            return []
        hop.is_linked = True
        return self._go_on(now_us)

    def on_unlinked(
        self, hop: RouteHop, message: Unlinked, now_us: int
    ) -> list[Effect]:
        """Note that a hop does not reach its neighbour in the new route."""
        peer = self._route.find(message.peer)
        if message.attempt != self._route.attempt or peer is None or peer.is_gone:
            return []
        if message.code:
            error = build_accusation(hop, peer, message)
            return self.lose(self._route.find(error.peer_id) or hop, error, now_us)
        hop.complaints += 1
        if hop.complaints > 1:
            text = f"{hop.name} reaches none of its neighbours"
            return self.lose(hop, HopLost(text, peer_id=hop.peer_id), now_us)
        text = f"{peer.name} is lost to {hop.name}"
        return self.lose(peer, HopLost(text, peer_id=peer.peer_id), now_us)

    def on_progress(self, hop: RouteHop, message: Progress, now_us: int) -> None:
        """Note a reply to a probe."""
        if self._watch is not None:
            self._watch.on_progress(hop, message, now_us)

    # Time

    def _build_watch(self, hops: list[RouteHop], step: int) -> Watch:
        session_id = self._plan.session_id
        return Watch(self._timeouts, session_id, hops, step, 0, self._now_us)

    def _extend(self) -> None:
        self._end_us = self._after(self._timeouts.recover_s)

    def _after(self, seconds: float) -> int:
        return self._now_us + int(seconds * 1_000_000)


def build_relink(
    hop: RouteHop, position: int, sign: Sign, *, comes_again: bool
) -> Effect:
    """Return what tells a hop its terms of a new attempt.

    Args:
        hop: With these terms.
        position: Where it goes on.
        sign: Signs with the channels' signer.
        comes_again: Whether what it takes back comes again as it was.
    """
    signed = compute_relink_message(hop.terms, position, comes_again=comes_again)
    relink = Relink(hop.terms, position, comes_again, sign(signed))
    return SendTo(hop.number, relink)

"""
What a requester's session makes of losses: which can be mended, and when.

A hop that is lost, or has done wrong, is replaced where somebody looks for others and
no token that follows from it is shown or chosen already; else the session ends.
Mending itself is in inference/session/recovery.py.

In the last lap the answer is complete and nobody is replaced, for a replacement would
compute it all again to sign for its end.  Whoever has not signed is told to go on
alone, signs for the range that this cuts off, and is paid.

While the session opens nothing was computed: whoever asked chooses another route.
"""

from inference.protocol.errors import (
    HopLost,
    SessionError,
)
from inference.protocol.messages import (
    Linked,
    Progress,
    Unlinked,
)
from inference.session.events import (
    Blame,
    Effect,
)
from inference.session.life import Phase, SessionLife
from inference.session.recovery import Recovery, build_relink
from inference.session.route import RouteHop
from inference.session.verdicts import (
    MAX_FAULTS,
    build_accusation,
    can_be_mended,
    is_fault,
)

LAST_LAP_US = 1_000_000
"""For the rest of the last lap once a hop is lost in it: the answer is complete."""

MAX_UNLINKS = 2
"""Times in one step that a hop may say that a neighbour is lost who is there: a liar
would have the route linked anew for ever."""


class SessionMending(SessionLife):
    """A session that can lose hops."""

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
            return self._settle(error)
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
        if message.code and self.phase is Phase.OPENING:
            # No data came from anybody yet.
            return self._miss(hop, "an accusation out of place", is_fault=True)
        if self.phase is Phase.FINISHING and self._is_lap_done:
            return []
        if self.phase is Phase.FINISHING:
            # Nobody goes on another's word: who is there can sign.
            return self._settle(HopLost(f"{peer.name} is lost to {hop.name}"))
        if message.code:
            error = build_accusation(hop, peer, message)
            return self._lose(self.route.find(error.peer_id) or hop, error)
        if not self._can_recover:
            text = f"{peer.name} is lost to {hop.name}"
            return self._lose(peer, HopLost(text, peer_id=peer.peer_id))
        if peer.is_suspect:
            # It was there, and lost to two of its neighbours in a row.
            text = f"{peer.name} is lost to one neighbour after the other"
            return self._lose(peer, HopLost(text, peer_id=peer.peer_id))
        hop.unlinks += 1
        if hop.unlinks > MAX_UNLINKS:
            peer.is_suspect = True
            text = f"{hop.name} loses its neighbours again and again"
            return self._lose(hop, HopLost(text, peer_id=hop.peer_id))
        self._is_unlinked = True
        if self.phase in (Phase.OPENING, Phase.SAMPLING):
            return []
        return self._recover()

    # The last lap

    def _settle(self, error: SessionError) -> list[Effect]:
        """End a last lap that has broken hop by hop; any other session fails."""
        if self._settling is not None:
            return self._end_settling()
        hops = [hop for hop in self.route.hops if self._has_to_sign(hop)]
        if not self._is_owed or not hops:
            return self._fail(error)
        self._settling = error
        self._deadline_us = self._now_us + LAST_LAP_US
        position = self.turns.position
        self.route.leave_alone(hops, max(len(self.plan.prompt), position))
        return [
            build_relink(hop, position, self._sign, comes_again=False) for hop in hops
        ]

    def _on_settled(self, hop: RouteHop, message: Linked) -> list[Effect]:
        """Pay a hop that has signed for the last range alone."""
        assert self._settling is not None
        assert self._track.step is not None
        if message.attempt != self.route.attempt or not self._has_to_sign(hop):
            return []
        hop.take_cut_off(message.receipt)
        hop.is_settled = True
        return [*hop.pay_after(self._track.step), *self._end_settling()]

    def _end_settling(self) -> list[Effect]:
        """End the session when nobody has to sign any more."""
        if self._settling is None or any(map(self._has_to_sign, self.route.hops)):
            return []
        return self._fail(self._settling)

    def _has_to_sign(self, hop: RouteHop) -> bool:
        return not hop.is_gone and not hop.is_settled and hop.receipt is None

    # Mending

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

"""
Lost is not slow: who is asked how far it is, and what is made of the reply.

    wait -----> probe -----> reply: it is there --> wait again, up to the deadline
      first, a few times      none: it is lost
      what steps take

The reply's deadline follows from the way to the hop and back.  The computation's own
follows from what the hop says that it still needs, so that a stage of five seconds a
token stays, and one whose machine has vanished is found out in as many.
"""

from collections.abc import Sequence

from inference.protocol.codes import AbortCode, Activity
from inference.protocol.errors import HopLost, StepTimeout
from inference.protocol.messages import Probe, Progress
from inference.session.events import Effect, SendTo
from inference.session.plan import SessionTimeouts
from inference.session.route import RouteHop

FIRST_PROBE_US = 500_000
"""Asking costs a small message per hop; sooner would ask in the middle of hiccups."""
STEPS_BEFORE_PROBE = 4
"""Times the usual duration before anybody is asked."""
REPLIES_BEFORE_LOST = 8
"""Times the usual time of a reply before a hop counts as lost, where that is longer
than `silence_s`."""
PATIENCE = 2
"""Times what a hop says that it still needs."""


class Watch:
    """What some hops were asked for, while they have not answered.

    Args:
        timeouts: How long to wait for what.
        session_id: Of the session.
        hops: Who is expected to answer.
        step: What they were asked for.
        usual_us: How long that takes usually; 0 when that is not known.
        now_us: When they were asked.
    """

    def __init__(
        self,
        timeouts: SessionTimeouts,
        session_id: bytes,
        hops: Sequence[RouteHop],
        step: int,
        usual_us: int,
        now_us: int,
    ) -> None:
        self._timeouts = timeouts
        self._session_id = session_id
        self._hops = hops
        self._step = step
        self._started_us = now_us
        self._end_us = now_us + _get_us(timeouts.step_s)
        self._is_probing = False
        first_us = _get_us(timeouts.probe_s)
        if usual_us:
            first_us = min(first_us, max(FIRST_PROBE_US, STEPS_BEFORE_PROBE * usual_us))
        self.deadline_us = min(now_us + first_us, self._end_us)

    def expire(self, now_us: int) -> list[Effect]:
        """Ask the hops, or judge what they said.

        Raises:
            HopLost: One has said nothing.
            StepTimeout: All have, and still it takes too long.
        """
        if not self._is_probing:
            return self._probe(now_us)
        self._is_probing = False
        for hop in self._hops:
            if hop.activity is None:
                raise HopLost(f"{hop.name} does not answer", peer_id=hop.peer_id)
        if now_us < self._end_us:
            self.deadline_us = now_us + _get_us(self._timeouts.probe_s)
            self.deadline_us = min(self.deadline_us, self._end_us)
            return []
        busy = (hop for hop in self._hops if hop.activity is not Activity.DONE)
        hop = next(busy, self._hops[-1])
        text = f"step {self._step} took too long at {hop.name}"
        raise StepTimeout(text, peer_id=hop.peer_id, code=AbortCode.TIMEOUT)

    def _probe(self, now_us: int) -> list[Effect]:
        self._is_probing = True
        longest_us = max(hop.reply_us for hop in self._hops)
        silence_us = max(
            _get_us(self._timeouts.silence_s), REPLIES_BEFORE_LOST * longest_us
        )
        self.deadline_us = now_us + silence_us
        probe = Probe(self._session_id, self._step)
        effects: list[Effect] = []
        for hop in self._hops:
            hop.activity, hop.probed_us = None, now_us
            effects.append(SendTo(hop.number, probe))
        return effects

    def on_progress(self, hop: RouteHop, message: Progress, now_us: int) -> None:
        """Note a reply."""
        if hop.activity is None and hop.probed_us:
            took_us = now_us - hop.probed_us
            before_us = hop.reply_us or took_us
            hop.reply_us = (7 * before_us + took_us) // 8
        if message.step != self._step:
            # It shows at least that the hop is there.
            hop.activity = Activity.NO_DATA
            return
        is_done = message.activity == Activity.DONE
        hop.activity = Activity.DONE if is_done else Activity.COMPUTING
        longest_us = self._started_us + _get_us(self._timeouts.longest_step_s)
        needed_us = now_us + PATIENCE * message.left_us
        self._end_us = max(self._end_us, min(needed_us, longest_us))


def _get_us(seconds: float) -> int:
    return int(seconds * 1_000_000)

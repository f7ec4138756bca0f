"""
Who shared a pass, and how long it is worth waiting for them.  No torch, no clock.

Theory of operation
-------------------
A pass over eight rows takes little longer than one over a single row, since both read
all the weights.  So sessions that shared a pass should share the next one too.  But
they come back one by one, some fractions of a millisecond apart, and a worker that
begins with the first of them runs a pass for it alone and makes the others wait for
that; in a ring of stages every such split lasts, and most passes end with one row.

    pass of a b c d ... back come   a   b c   d
                        without:    [---- a ----][-- b c d --]
                        with:       .......[-- a b c d --]

So whoever is here waits for those with whom it shared its last pass: until they are
here, or have gone, or a share of what that pass took is over.  A session that was alone
in its last pass waits for nobody, nor does one whose companions are all here.  Those
who came too late are no companions any more, so nobody waits for them a second time;
groups join again where two of them wait for the same pass.

The wait counts from when the oldest request came: what came during a pass has waited.
A chunk of a prompt waits for nobody, and nobody beside it: there is work to do, and
whoever comes meanwhile shares the next pass.  Nobody waits for the next chunk either,
which is a lap away, and steps that shared a pass with a chunk wait for each other as
long as before it, for the chunk made that pass long.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

WAIT_SHARE = 0.25
"""Of the last pass's time.  Beginning without those who are on their way costs them up
to a whole pass; waiting for those who are not costs this much, once."""


@dataclass(slots=True)
class _Group:
    """Sessions that shared their last pass."""

    members: set[bytes]
    wait_s: float


class _Waiting(NamedTuple):
    session_id: bytes
    since_s: float

    @property
    def waits(self) -> bool:
        return self.since_s > -math.inf


class Companions:
    """The sessions of one worker, by the pass that they shared."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._groups: dict[bytes, _Group] = {}
        self._waiting: dict[int, _Waiting] = {}
        """By call."""

    def on_request(
        self, call: int, session_id: bytes, now_s: float, *, waits: bool = True
    ) -> None:
        """Note a request that is to share the next pass.

        Args:
            call: Its number.
            session_id: Whose.
            now_s: Of any clock that never goes back.
            waits: False for one that is to begin at once.
        """
        since_s = now_s if waits else -math.inf
        self._waiting[call] = _Waiting(session_id, since_s)

    def on_pass(self, calls: Iterable[int], took_s: float) -> None:
        """Note that these requests were answered by one pass.

        Args:
            calls: Their numbers.
            took_s: Seconds of the pass.
        """
        popped = (self._waiting.pop(call, None) for call in calls)
        answered = [waiting for waiting in popped if waiting is not None]
        members = {waiting.session_id for waiting in answered if waiting.waits}
        if all(waiting.waits for waiting in answered):
            wait_s = WAIT_SHARE * took_s
        else:
            known = (self._groups.get(session_id) for session_id in members)
            wait_s = max((group.wait_s for group in known if group), default=0.0)
        group = _Group(members, wait_s)
        for session_id in members:
            self._leave(session_id)
            if len(members) > 1:
                self._groups[session_id] = group

    def drop(self, call: int) -> None:
        """Note that a request waits for no pass: it failed, or was answered without.

        What its session does next is not known; nobody waits for it.
        """
        waiting = self._waiting.pop(call, None)
        if waiting is not None:
            self._leave(waiting.session_id)

    def forget(self, session_id: bytes) -> None:
        """Let nobody wait for a session, which has ended."""
        self._leave(session_id)
        self._waiting = {
            call: waiting
            for call, waiting in self._waiting.items()
            if waiting.session_id != session_id
        }

    def compute_wait_s(self, now_s: float) -> float:
        """Return how many seconds the next pass should wait for who is missing."""
        if not self._waiting:
            return 0.0
        here = {waiting.session_id for waiting in self._waiting.values()}
        wait_s = max(self._get_wait_s(session_id, here) for session_id in here)
        oldest_s = min(waiting.since_s for waiting in self._waiting.values())
        return max(0.0, oldest_s + wait_s - now_s) if wait_s else 0.0

    def _get_wait_s(self, session_id: bytes, here: set[bytes]) -> float:
        group = self._groups.get(session_id)
        return 0.0 if group is None or group.members <= here else group.wait_s

    def _leave(self, session_id: bytes) -> None:
        group = self._groups.pop(session_id, None)
        if group is not None:
            group.members.discard(session_id)

"""
How long before a leader's turn chunks are begun.

Theory of operation
-------------------
    begun ---------- certified ---- the leader's turn
      |--- measured ---|- margin -|

Too late, and a chunk misses its block, which costs a second; too early, and
transactions that come meanwhile wait for the next chunk.  How long certifying takes
depends on the machines, on what they do besides and on how full chunks are; so a
producer measures it, of its own chunks.  Longer ones count at once and shorter ones by
and by, as being late costs more.

Nodes need not agree: a chunk that comes from somebody who began earlier is looked at
at once, so the producer's lead is what counts.
"""

FIRST_LEAD_S = 0.3
"""While nothing is measured: two messages, an execution and two syncs take 50 ms on a
quiet machine and four times that on a busy one."""
LEAST_LEAD_S = 0.08
MOST_LEAD_S = 0.6
"""With a leader's turn each second; covers a producer that is silent for a Delta."""

MARGIN = 1.3
"""Of the measured time; a full chunk takes longer than the one before it did."""
MARGIN_S = 0.03
"""And for the certificate's way to the leader."""
RISE = 0.5
FALL = 0.25
"""Weights of a sample that is longer or shorter than what was expected."""


class ChunkLead:
    """What certifying took, and the lead that follows; seconds on any one clock."""

    def __init__(self) -> None:
        self._expected_s = (FIRST_LEAD_S - MARGIN_S) / MARGIN
        self._view = -1
        self._begun_s = 0.0

    @property
    def lead_s(self) -> float:
        """Begin so long before the leader's turn."""
        wanted_s = MARGIN * self._expected_s + MARGIN_S
        return min(max(LEAST_LEAD_S, wanted_s), MOST_LEAD_S)

    def begin(self, view: int, now_s: float) -> None:
        """The chunks of a view are begun; again, if it is a better parent's turn."""
        if view != self._view:
            self._view, self._begun_s = view, now_s

    def on_certified(self, view: int, now_s: float) -> None:
        """A chunk of ours that was made in `view` has its certificate."""
        if view != self._view:
            # Of an earlier view; what came of it is known, when it began is not.
            return
        sample_s = min(now_s - self._begun_s, MOST_LEAD_S)
        weight = RISE if sample_s > self._expected_s else FALL
        self._expected_s += weight * (sample_s - self._expected_s)

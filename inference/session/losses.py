"""What was lost while a route is mended, and who is not to be asked again."""

from collections.abc import Sequence

from inference.protocol.codes import RefuseCode
from inference.protocol.errors import HopLost, HopRefused, SessionError
from inference.session.events import FindHops
from inference.session.gap import Gap
from inference.session.route import RouteHop

MAX_SEARCHES = 16
"""For other hops in one recovery; more losses are no accident."""


class Losses:
    """The losses of one recovery, and the searches for others."""

    def __init__(self) -> None:
        self.searches = 0
        self._cause: SessionError | None = None
        self._latest: SessionError | None = None
        self._untold: list[SessionError] = []
        """What the next search is to know."""
        self._excluded: set[bytes] = set()

    def note(self, error: SessionError) -> None:
        """Note that a hop is lost."""
        self._cause, self._latest = self._cause or error, error
        self._untold.append(error)
        # Who is owed something will serve when it is paid; the finder judges that.
        if not isinstance(error, HopRefused) or error.code != RefuseCode.UNPAID:
            self._excluded.add(error.peer_id)

    def build_search(
        self, hops: Sequence[RouteHop], gap: Gap, positions: int
    ) -> FindHops:
        """Return what finds hops for a gap.

        Args:
            hops: The route.
            gap: Who is missing.
            positions: That they compute at the input price.

        Raises:
            SessionError: It is one too many.
        """
        if self.searches == MAX_SEARCHES:
            raise self.build_error("too many hops are lost")
        self.searches += 1
        there = (hop.peer_id for hop in hops if not hop.is_gone)
        lost, self._untold = tuple(self._untold), []
        return FindHops(
            search=self.searches,
            start=hops[gap[0]].plan.start,
            end=hops[gap[1]].plan.end,
            excluded=frozenset([*self._excluded, *there]),
            lost=lost,
            positions=positions,
        )

    def build_error(self, text: str) -> SessionError:
        """Return the loss that could not be mended."""
        cause = self._cause or HopLost("the route broke")
        reasons = [str(cause)]
        if self._latest is not None and self._latest is not cause:
            reasons.append(str(self._latest))
        cause.args = ("; ".join([*reasons, text]),)
        return cause

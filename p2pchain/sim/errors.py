"""
What the simulator raises.

    LocalError
    |- InvariantBroken   a theorem of the protocol does not hold in this run
    |- UnknownScenario   there is no scenario of that name

    PowerCut             no error but an event: the simulated machine goes off
"""

from primitives.errors import LocalError


class InvariantBroken(LocalError):
    """A run contradicts a theorem: a bug in the protocol, its code or the simulator."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        """Name of the theorem; see p2pchain.sim.invariants.blocks."""
        self.detail = detail


class UnknownScenario(LocalError):
    """There is no scenario of that name."""


class PowerCut(Exception):
    """The machine of a simulated node goes off in the middle of a write."""

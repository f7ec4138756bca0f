"""
Why no route was found: nobody's fault, a provider may still come.

    MissingError
    |- NoRoute
       |- UncoveredLayers    nobody offers some layers
       |- UnjoinedRanges     all layers are offered, but no chain of ranges joins
       |- RouteTooDear       the cheapest route is above the price bound
       |- RouteTooSlow       the fastest route is above the latency bound
       |- RouteOutOfBounds   each bound could be kept alone, both together cannot
"""

from collections.abc import Sequence

from primitives.errors import MissingError


class NoRoute(MissingError):
    """No offers lead through all layers within the bounds."""


class UncoveredLayers(NoRoute):
    """Nobody offers these layers."""

    def __init__(self, gaps: Sequence[tuple[int, int]]) -> None:
        text = ", ".join(f"[{start}, {end})" for start, end in gaps)
        super().__init__(f"no provider offers layers {text}")
        self.gaps = tuple(gaps)
        """Ranges [start, end) without any offer, ascending."""


class UnjoinedRanges(NoRoute):
    """Every layer is offered, but whole ranges do not meet at their ends."""

    def __init__(self, boundary: int) -> None:
        super().__init__(
            f"no chain of offered ranges gets past layer {boundary}:"
            " no range begins where another ends"
        )
        self.boundary = boundary
        """Furthest layer boundary that whole ranges reach from the first layer."""


class RouteTooDear(NoRoute):
    """The cheapest route costs more than the user allows."""

    def __init__(self, *, cheapest_atoms: int, max_price_atoms: int) -> None:
        super().__init__(
            f"the cheapest route costs {cheapest_atoms} atoms,"
            f" {max_price_atoms} are allowed"
        )
        self.cheapest_atoms = cheapest_atoms
        self.max_price_atoms = max_price_atoms


class RouteTooSlow(NoRoute):
    """The fastest route takes longer per token than the user allows."""

    def __init__(self, *, fastest_us: int, max_step_us: int) -> None:
        super().__init__(
            f"the fastest route takes {fastest_us} us a token,"
            f" {max_step_us} are allowed"
        )
        self.fastest_us = fastest_us
        self.max_step_us = max_step_us


class RouteOutOfBounds(NoRoute):
    """Some routes are cheap enough and some fast enough, but none is both."""

    def __init__(self, *, max_price_atoms: int, max_step_us: int) -> None:
        super().__init__(
            f"no route costs at most {max_price_atoms} atoms and takes at most"
            f" {max_step_us} us a token"
        )
        self.max_price_atoms = max_price_atoms
        self.max_step_us = max_step_us

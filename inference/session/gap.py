"""Which hops of a route are missing, and whether others fill their place."""

from collections.abc import Sequence

from inference.session.plan import HopPlan
from inference.session.route import RouteHop

Gap = tuple[int, int]
"""First and last hop that are to be replaced, by their places in the route."""


def find_gap(hops: Sequence[RouteHop]) -> Gap | None:
    """Return the first hops in a row that have to be replaced."""
    missing = [i for i, hop in enumerate(hops) if hop.is_gone or hop.is_leaving]
    if not missing:
        return None
    first = last = missing[0]
    while last + 1 in missing:
        last += 1
    return first, last


def find_place(
    hops: Sequence[RouteHop], gap: Gap, plans: Sequence[HopPlan]
) -> Gap | None:
    """Return which hops the found ones replace, if their layers fit.

    Args:
        hops: The route.
        gap: Who is missing.
        plans: Who was found, in order; more than these may be replaced.
    """
    ends = [plan.end for plan in plans]
    if not plans or [plan.start for plan in plans[1:]] != ends[:-1]:
        return None
    starts = {hop.plan.start: index for index, hop in enumerate(hops)}
    stops = {hop.plan.end: index for index, hop in enumerate(hops)}
    first, last = starts.get(plans[0].start), stops.get(ends[-1])
    if first is None or last is None or first > gap[0] or last < gap[1]:
        return None
    staying = {hop.peer_id for hop in (*hops[:first], *hops[last + 1 :])}
    return None if staying & {plan.peer_id for plan in plans} else (first, last)

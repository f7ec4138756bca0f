"""
The one memory formula: what the caches of a stage's sessions take.

    bytes = positions of all open sessions x bytes of one position

The bytes of one position are measured on the real cache in the stage's self-test and
stand in its READY report, so the worker that admits, the node that announces and a
router that plans all count the same.  A session is counted in full from its opening,
though its cache grows as tokens come: what was admitted never fails for memory.
"""

from inference.errors import Busy

DEFAULT_KV_BUDGET_BYTES = 512 * 1024 * 1024
"""Four stages of a devnet with all caches full stay well below its 6 GiB."""


def compute_cache_bytes(positions: int, position_bytes: int) -> int:
    """Return the bytes that so many positions take in one stage."""
    return positions * position_bytes


def validate_room(
    open_positions: int, new_positions: int, position_bytes: int, budget_bytes: int
) -> None:
    """Refuse a session for which there is no room.

    Raises:
        Busy: Says what it would take and what there is.
    """
    wanted = compute_cache_bytes(open_positions + new_positions, position_bytes)
    if wanted > budget_bytes:
        raise Busy(f"{wanted} bytes of cache; there are {budget_bytes}")

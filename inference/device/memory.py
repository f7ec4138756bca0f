"""
The one memory formula: what the caches of a stage's sessions take.

    bytes of a session = state + pages x positions of a page x bytes of one position

The bytes of one position, and of the state that layers of some kinds keep whatever the
length, are measured on the real layers in the stage's self-test and stand in its READY
report, so the worker that admits, the node that refuses before it asks the worker, and
a router that plans all count the same.  A session is counted in
full from its opening: what was admitted never fails for memory.  What counts is the
length that its client asks and pays for, not the longest that the model could take;
and memory is touched only as tokens come, so an early end costs nothing but the
promise.

Beginnings of sessions that are over stay in pages that nobody needs, within the same
budget; they are promised to nobody and no reason to refuse anybody.
"""

from dataclasses import dataclass

from inference.errors import BadRequest, Busy

DEFAULT_KV_BUDGET_BYTES = 512 * 1024 * 1024
"""Four stages of a devnet with all caches full stay well below its 6 GiB."""

WORKER_BYTES = 512 * 1024 * 1024
"""Of a worker beside weights and caches: interpreter, libraries, one pass.  With three
megabytes of weights one was measured at 370 MB."""

PAGE_TOKENS = 16
"""Positions of a page: what a session wastes at most, less one; and small enough that
a shared beginning is seldom cut short by much."""

MAX_SESSIONS = 256
"""One decoding session per millisecond of a fast step; more only wait."""
MAX_SESSION_ID_BYTES = 32


def compute_stage_bytes(
    weights_bytes: int, kv_budget_bytes: int = DEFAULT_KV_BUDGET_BYTES
) -> int:
    """Return the most memory that a stage with these weights takes."""
    return weights_bytes + kv_budget_bytes + WORKER_BYTES


def compute_weights_room(
    room_bytes: int, kv_budget_bytes: int = DEFAULT_KV_BUDGET_BYTES
) -> int:
    """Return the weights for which a stage has room; negative where for none."""
    return room_bytes - compute_stage_bytes(0, kv_budget_bytes)


def count_pages(positions: int) -> int:
    """Return the pages that a session of so many positions takes."""
    return -(-positions // PAGE_TOKENS)


@dataclass(frozen=True, slots=True)
class CacheCost:
    """What the sessions of one stage cost; measured on its real layers."""

    position_bytes: int
    """Of one position of one session."""
    state_bytes: int = 0
    """Of one session, whatever its length."""

    def compute_bytes(self, positions: int) -> int:
        """Return the bytes of a session of so many positions."""
        paged = count_pages(positions) * PAGE_TOKENS
        return self.state_bytes + paged * self.position_bytes

    def count_pages(self, positions: int) -> int:
        """Return the pages of a session; none where positions take no memory."""
        return count_pages(positions) if self.position_bytes else 0

    def count_budget_pages(self, budget_bytes: int) -> int:
        """Return the most pages that sessions can have within a budget.

        Where positions take no memory (no layers, or layers with a state only) the
        sessions are bounded by their number.
        """
        if self.position_bytes == 0:
            return 0
        return budget_bytes // (PAGE_TOKENS * self.position_bytes)


class Reservations:
    """Which sessions are open, and the bytes that each was promised."""

    def __init__(self, cost: CacheCost, budget_bytes: int) -> None:
        """Begin with no session and all of `budget_bytes` to give."""
        self.cost = cost
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._bytes: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._bytes)

    def __contains__(self, session_id: bytes) -> bool:
        return session_id in self._bytes

    def open(self, session_id: bytes, max_positions: int) -> None:
        """Promise a session of at most `max_positions` positions its bytes.

        Raises:
            BadRequest: The name is in use or not a name, or no positions.
            Busy: No room for it now.
        """
        if not 0 < len(session_id) <= MAX_SESSION_ID_BYTES:
            raise BadRequest(f"a session's name has 1 to {MAX_SESSION_ID_BYTES} bytes")
        if session_id in self._bytes:
            raise BadRequest("a session of that name is open")
        if max_positions < 1:
            raise BadRequest("a session needs at least one position")
        if len(self._bytes) >= MAX_SESSIONS:
            raise Busy(f"{MAX_SESSIONS} sessions are open")
        wanted = self.cost.compute_bytes(max_positions)
        if self.used_bytes + wanted > self.budget_bytes:
            raise Busy(
                f"{wanted} bytes of cache; {self.used_bytes} of "
                f"{self.budget_bytes} are promised"
            )
        self._bytes[session_id] = wanted
        self.used_bytes += wanted

    def close(self, session_id: bytes) -> None:
        """Take the promise back; one that was not made is no matter."""
        self.used_bytes -= self._bytes.pop(session_id, 0)

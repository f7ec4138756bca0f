"""
Who fetches which part of something large: a board of work, without clock or network.

Every part is waiting, asked of one peer or two, or done.  A peer has at most
`PER_PEER` questions open.  When nothing waits any more that an idle peer has, it is
asked for what others have had for long: whoever is slow is replaced, and whoever
answers first wins.  A peer that sent what is not the part is never asked again; one
that has nothing or is too slow rests for a while, longer each time.
"""

from collections import deque
from collections.abc import Collection, Container, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

PER_PEER = 2
"""Parts asked of a peer at a time: one travels, one is read there."""
SLOW_S = 3.0
"""After so long without an answer somebody else is asked too, once nothing waits."""
REST_S = 1.0
"""A peer that could not answer is left alone, twice as long each time."""
MAX_REST_S = 30.0
RATE_S = 5.0
"""Over which the rate is the mean."""


class Sized(Hashable, Protocol):
    """A part: a name with a size."""

    @property
    def size(self) -> int:
        """In bytes, at least about."""


P = TypeVar("P", bound=Sized)


@dataclass(slots=True)
class _Peer(Generic[P]):
    asked: dict[P, float] = field(default_factory=dict)
    """Open questions, and since when."""
    failures: int = 0
    """Since its last good answer."""
    rests_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is, for people and programs."""

    parts: int
    parts_done: int
    bytes: int
    bytes_done: int
    bytes_per_s: float
    peers: int
    """That are asked right now."""

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at this rate; None while nothing comes."""
        left = self.bytes - self.bytes_done
        return left / self.bytes_per_s if self.bytes_per_s > 0 else None


class WorkBoard(Generic[P]):
    """What is to be fetched, and from whom.

    Args:
        places: All parts.
        held: Those of them that are here already.
    """

    def __init__(self, places: Sequence[P], held: Collection[P]) -> None:
        self._order = {place: number for number, place in enumerate(places)}
        self._done = set(held)
        self._bytes = sum(place.size for place in places)
        self._bytes_done = sum(place.size for place in self._done)
        self._waiting = deque(place for place in places if place not in self._done)
        self._peers: dict[bytes, _Peer[P]] = {}
        self._banned: set[bytes] = set()
        self._came: deque[tuple[float, int]] = deque()
        self._began_at: float | None = None
        self.changed_at = 0.0
        """When the last part was done, or the first one asked for."""

    @property
    def is_complete(self) -> bool:
        """Whether every part is here."""
        return len(self._done) == len(self._order)

    def take(
        self, peer_id: bytes, now: float, offered: Container[P] | None = None
    ) -> P | None:
        """Return what to ask a peer for; None: nothing at the moment.

        Args:
            peer_id: Whom.
            now: On a clock of seconds.
            offered: What it has; None: everything.
        """
        if peer_id in self._banned:
            return None
        if self._began_at is None:
            self._began_at = self.changed_at = now
        peer = self._peers.setdefault(peer_id, _Peer())
        if len(peer.asked) >= PER_PEER or now < peer.rests_until:
            return None
        place = self._find_waiting(offered) or self._find_slow(peer, now, offered)
        if place is not None:
            peer.asked[place] = now
        return place

    def on_part(self, peer_id: bytes, place: P, size: int, now: float) -> bool:
        """A good part came; returns whether it is news."""
        peer = self._peers[peer_id]
        peer.asked.pop(place, None)
        peer.failures = 0
        if place in self._done:
            return False
        self._done.add(place)
        self._bytes_done += place.size
        self._came.append((now, size))
        self.changed_at = now
        return True

    def on_failure(self, peer_id: bytes, place: P, now: float) -> None:
        """A peer could not answer, or was too slow."""
        peer = self._peers[peer_id]
        peer.failures += 1
        rest = min(MAX_REST_S, REST_S * 2 ** (peer.failures - 1))
        peer.rests_until = now + rest
        self._put_back(peer, place)

    def on_lie(self, peer_id: bytes, place: P) -> None:
        """A peer sent what no correct node sends; it is not asked again."""
        self._banned.add(peer_id)
        self._put_back(self._peers[peer_id], place)

    def measure(self, now: float) -> Progress:
        """Return how far it is."""
        while self._came and self._came[0][0] < now - RATE_S:
            self._came.popleft()
        began_at = now if self._began_at is None else self._began_at
        span = min(RATE_S, max(now - began_at, 0.5))
        return Progress(
            parts=len(self._order),
            parts_done=len(self._done),
            bytes=self._bytes,
            bytes_done=self._bytes_done,
            bytes_per_s=sum(size for _, size in self._came) / span,
            peers=sum(bool(peer.asked) for peer in self._peers.values()),
        )

    def _find_waiting(self, offered: Container[P] | None) -> P | None:
        """Take the first part off the queue that a peer has."""
        passed: list[P] = []
        found = None
        while self._waiting and found is None:
            place = self._waiting.popleft()
            if place in self._done:
                continue
            if offered is None or place in offered:
                found = place
            else:
                passed.append(place)
        self._waiting.extendleft(reversed(passed))
        return found

    def _find_slow(
        self, idle: _Peer[P], now: float, offered: Container[P] | None
    ) -> P | None:
        """Return what somebody else alone has been asked for longest."""
        asked: dict[P, list[float]] = {}
        for peer in self._peers.values():
            for place, since in peer.asked.items():
                asked.setdefault(place, []).append(since)
        slow = [
            (times[0], self._order[place], place)
            for place, times in asked.items()
            if len(times) == 1
            and times[0] <= now - SLOW_S
            and place not in idle.asked
            and place not in self._done
            and (offered is None or place in offered)
        ]
        return min(slow, key=lambda item: item[:2])[2] if slow else None

    def _put_back(self, peer: _Peer[P], place: P) -> None:
        peer.asked.pop(place, None)
        is_asked = any(place in other.asked for other in self._peers.values())
        if place not in self._done and not is_asked and place not in self._waiting:
            self._waiting.append(place)

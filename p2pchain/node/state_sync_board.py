"""
Who fetches which part of a snapshot: a board of work, without clock or network.

Every part is waiting, asked of one peer or two, or done.  A peer has at most
`PER_PEER` questions open.  When nothing waits any more, idle peers are asked for what
others have had for long: whoever is slow is replaced, and whoever answers first wins.
A peer that sent what does not hash is never asked again; one that has nothing or is
too slow rests for a while, longer each time.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from chain.snapshot import PartPlace

PER_PEER = 2
"""Parts asked of a peer at a time: one travels, one is read there."""
SLOW_S = 3.0
"""After so long without an answer somebody else is asked too, once nothing waits."""
REST_S = 1.0
"""A peer that could not answer is left alone, twice as long each time."""
MAX_REST_S = 30.0
RATE_S = 5.0
"""Over which the rate is the mean."""


@dataclass(slots=True)
class _Peer:
    asked: dict[PartPlace, float] = field(default_factory=dict)
    """Open questions, and since when."""
    failures: int = 0
    """Since its last good answer."""
    rests_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a snapshot is, for people and programs."""

    height: int
    """Of the snapshot's block."""
    parts: int
    parts_done: int
    bytes: int
    """By what the manifest says."""
    bytes_done: int
    bytes_per_s: float
    peers: int
    """That are asked right now."""

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at this rate; None while nothing comes."""
        left = self.bytes - self.bytes_done
        return left / self.bytes_per_s if self.bytes_per_s > 0 else None


class PartBoard:
    """What is to be fetched, and from whom.

    Args:
        height: Of the snapshot's block.
        places: All its parts.
        held: Those of them that are here already.
    """

    def __init__(
        self, height: int, places: Sequence[PartPlace], held: Collection[PartPlace]
    ) -> None:
        self._height = height
        self._places = tuple(places)
        self._done = set(held)
        self._waiting = deque(place for place in places if place not in self._done)
        self._peers: dict[bytes, _Peer] = {}
        self._banned: set[bytes] = set()
        self._came: deque[tuple[float, int]] = deque()
        self._began_at: float | None = None
        self.changed_at = 0.0
        """When the last part was done, or the first one asked for."""

    @property
    def is_complete(self) -> bool:
        """Whether every part is here."""
        return len(self._done) == len(self._places)

    def is_welcome(self, peer_id: bytes) -> bool:
        """Tell whether a peer may be asked at all."""
        return peer_id not in self._banned

    def take(self, peer_id: bytes, now: float) -> PartPlace | None:
        """Return what to ask a peer for; None: nothing at the moment."""
        if peer_id in self._banned:
            return None
        if self._began_at is None:
            self._began_at = self.changed_at = now
        peer = self._peers.setdefault(peer_id, _Peer())
        if len(peer.asked) >= PER_PEER or now < peer.rests_until:
            return None
        place = self._find_waiting() or self._find_slow(peer, now)
        if place is not None:
            peer.asked[place] = now
        return place

    def on_part(self, peer_id: bytes, place: PartPlace, size: int, now: float) -> bool:
        """A good part came; returns whether it is news."""
        peer = self._peers[peer_id]
        peer.asked.pop(place, None)
        peer.failures = 0
        if place in self._done:
            return False
        self._done.add(place)
        self._came.append((now, size))
        self.changed_at = now
        return True

    def on_failure(self, peer_id: bytes, place: PartPlace, now: float) -> None:
        """A peer could not answer, or was too slow."""
        peer = self._peers[peer_id]
        peer.failures += 1
        rest = min(MAX_REST_S, REST_S * 2 ** (peer.failures - 1))
        peer.rests_until = now + rest
        self._put_back(peer, place)

    def on_lie(self, peer_id: bytes, place: PartPlace) -> None:
        """A peer sent what no correct node sends; it is not asked again."""
        self._banned.add(peer_id)
        self._put_back(self._peers[peer_id], place)

    def get_progress(self, now: float) -> Progress:
        """Return how far the snapshot is."""
        while self._came and self._came[0][0] < now - RATE_S:
            self._came.popleft()
        began_at = now if self._began_at is None else self._began_at
        span = min(RATE_S, max(now - began_at, 0.5))
        return Progress(
            height=self._height,
            parts=len(self._places),
            parts_done=len(self._done),
            bytes=sum(place.size for place in self._places),
            bytes_done=sum(place.size for place in self._done),
            bytes_per_s=sum(size for _, size in self._came) / span,
            peers=sum(bool(peer.asked) for peer in self._peers.values()),
        )

    def _find_waiting(self) -> PartPlace | None:
        while self._waiting:
            place = self._waiting.popleft()
            if place not in self._done:
                return place
        return None

    def _find_slow(self, idle: _Peer, now: float) -> PartPlace | None:
        """Return what somebody else alone has been asked for longest."""
        asked: dict[PartPlace, list[float]] = {}
        for peer in self._peers.values():
            for place, since in peer.asked.items():
                asked.setdefault(place, []).append(since)
        slow = [
            (times[0], place.shard, place.first, place)
            for place, times in asked.items()
            if len(times) == 1
            and times[0] <= now - SLOW_S
            and place not in idle.asked
            and place not in self._done
        ]
        return min(slow, key=lambda item: item[:3])[3] if slow else None

    def _put_back(self, peer: _Peer, place: PartPlace) -> None:
        peer.asked.pop(place, None)
        is_asked = any(place in other.asked for other in self._peers.values())
        if place not in self._done and not is_asked and place not in self._waiting:
            self._waiting.append(place)

"""
Who misbehaved, how much, and until when it stays out.

Points fade with time, so that rare accidents never add up to a ban.  A ban names the
peer's key, never an address that others share, and each one is twice as long as the
last.  Time comes in as an argument, in seconds of any steady clock.
"""

from collections import OrderedDict
from dataclasses import dataclass

from network.endpoint import PeerId
from network.faults import Fault

BAN_POINTS = 100
FADE_PER_S = 0.2
"""Points that fade per second: a clean slate after eight minutes."""
BAN_S = 600.0
MAX_BAN_S = 24 * 3600.0
FLOOD_INTERVAL_S = 1.0
"""A flood is charged once in this time, however many messages it has."""
MAX_PEERS = 4096
"""Peers remembered; keys cost nothing, so the list must not grow with them."""


@dataclass(slots=True)
class _Record:
    points: float = 0.0
    counted_at: float = 0.0
    flooded_at: float | None = None
    banned_until: float = 0.0
    bans: int = 0


class ScoreBook:
    """Points and bans per peer."""

    def __init__(self) -> None:
        self._records: OrderedDict[PeerId, _Record] = OrderedDict()

    def charge(self, peer_id: PeerId, fault: Fault, now: float) -> bool:
        """Count a fault; True when it brings a ban about."""
        record = self._get(peer_id, now)
        if fault is Fault.FLOOD:
            last = record.flooded_at
            if last is not None and now - last < FLOOD_INTERVAL_S:
                return False
            record.flooded_at = now
        record.points += fault
        if record.points < BAN_POINTS or now < record.banned_until:
            return False
        record.banned_until = now + min(MAX_BAN_S, BAN_S * 2**record.bans)
        record.bans += 1
        record.points = 0.0
        return True

    def is_banned(self, peer_id: PeerId, now: float) -> bool:
        """Tell whether the peer is to be kept out at `now`."""
        record = self._records.get(peer_id)
        return record is not None and now < record.banned_until

    def get_points(self, peer_id: PeerId, now: float) -> float:
        """Return the points that have not faded; 0 is a clean slate."""
        record = self._records.get(peer_id)
        return 0.0 if record is None else _fade(record, now)

    def _get(self, peer_id: PeerId, now: float) -> _Record:
        record = self._records.get(peer_id)
        if record is None:
            if len(self._records) >= MAX_PEERS:
                self._evict(now)
            record = self._records[peer_id] = _Record(counted_at=now)
        self._records.move_to_end(peer_id)
        record.points = _fade(record, now)
        record.counted_at = max(record.counted_at, now)
        return record

    def _evict(self, now: float) -> None:
        # The one longest without a fault goes, those under a ban last.
        for peer_id, record in self._records.items():
            if now >= record.banned_until:
                del self._records[peer_id]
                return
        self._records.popitem(last=False)


def _fade(record: _Record, now: float) -> float:
    elapsed_s = max(0.0, now - record.counted_at)
    return max(0.0, record.points - elapsed_s * FADE_PER_S)

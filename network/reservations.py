"""
Memory for long messages on the way in, shared by all connections.

A message that does not fit in its stream's window asks for its whole length before the
sender is allowed to go on, and waits its turn when there is no room.  A message that
has its memory can always be finished, so messages never block each other half-way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Reservation:
    """One message's claim; `grant` is called once when it holds."""

    owner: bytes
    """Peer id that the bytes come from."""
    size: int
    grant: Callable[[], None] = field(repr=False)
    is_held: bool = False


class ReservationPool:
    """Grants claims in the order of asking, within a bound per owner and in all."""

    def __init__(self, max_bytes: int, max_bytes_per_owner: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_per_owner = max_bytes_per_owner
        self._held = 0
        self._held_by: dict[bytes, int] = {}
        self._waiting: list[Reservation] = []

    @property
    def held_bytes(self) -> int:
        """Bytes granted and not released."""
        return self._held

    def reserve(self, reservation: Reservation) -> None:
        """Grant the claim now or later; every claim must be released in the end."""
        self._waiting.append(reservation)
        self._grant_waiting()

    def release(self, reservation: Reservation) -> None:
        """Give the memory back, or withdraw the claim."""
        if reservation.is_held:
            reservation.is_held = False
            self._held -= reservation.size
            left = self._held_by[reservation.owner] - reservation.size
            if left:
                self._held_by[reservation.owner] = left
            else:
                del self._held_by[reservation.owner]
            self._grant_waiting()
        elif reservation in self._waiting:
            self._waiting.remove(reservation)
            self._grant_waiting()

    def _grant_waiting(self) -> None:
        still_waiting = []
        granted = []
        blocked = False
        for reservation in self._waiting:
            # An owner at its own bound is passed over; the common bound is first
            # come, first served, or long messages would wait for ever.
            if blocked or not self._fits_owner(reservation):
                still_waiting.append(reservation)
                continue
            if self._held + reservation.size > self._max_bytes:
                blocked = True
                still_waiting.append(reservation)
                continue
            reservation.is_held = True
            self._held += reservation.size
            held = self._held_by.get(reservation.owner, 0)
            self._held_by[reservation.owner] = held + reservation.size
            granted.append(reservation)
        self._waiting = still_waiting
        for reservation in granted:
            reservation.grant()

    def _fits_owner(self, reservation: Reservation) -> bool:
        held = self._held_by.get(reservation.owner, 0)
        return held + reservation.size <= self._max_bytes_per_owner

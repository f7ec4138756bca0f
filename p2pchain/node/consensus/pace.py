"""How often something may be done for one peer."""

import trio

MAX_REMEMBERED = 1024
"""Peers with a recent turn; more than are connected at a time."""


class Pace:
    """Allows one turn per key and interval; runs on the trio clock."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._turns: dict[bytes, float] = {}

    def take_turn(self, key: bytes) -> bool:
        """Tell whether it is `key`'s turn, and if so, take it."""
        now = trio.current_time()
        if len(self._turns) >= MAX_REMEMBERED:
            recent = now - self._interval_s
            self._turns = {k: at for k, at in self._turns.items() if at > recent}
        if now < self._turns.get(key, -float("inf")) + self._interval_s:
            return False
        self._turns[key] = now
        return True

"""Named timers for one owner: setting one replaces the one of the same name."""

from collections.abc import Callable, Hashable

import trio


class Timers:
    """Calls back when a timer runs out; runs on the trio clock."""

    def __init__(self, on_fire: Callable[[Hashable, object], None]) -> None:
        self._on_fire = on_fire
        self._deadlines: dict[Hashable, tuple[float, object]] = {}
        self._changed = trio.Event()

    def set(self, name: Hashable, delay_s: float, value: object) -> None:
        """Call back with `name` and `value` in `delay_s` seconds."""
        self._deadlines[name] = trio.current_time() + delay_s, value
        self._changed.set()

    async def run(self) -> None:
        """Fire timers for ever."""
        while True:
            self._changed = trio.Event()
            deadlines = [deadline for deadline, _ in self._deadlines.values()]
            with trio.move_on_at(min(deadlines, default=float("inf"))):
                await self._changed.wait()
            self._fire_due()

    def _fire_due(self) -> None:
        now = trio.current_time()
        due = [name for name, (at, _) in self._deadlines.items() if at <= now]
        for name in sorted(due, key=lambda name: self._deadlines[name][0]):
            deadline, value = self._deadlines.get(name, (float("inf"), None))
            if deadline <= now:
                del self._deadlines[name]
                self._on_fire(name, value)

"""
A circuit breaker: who failed is left alone for a while, and then tried with care.

    ACTIVE --failure--> EXCLUDED --pause over--> PROBING --success--> ACTIVE
                            ^                       |
                            +------- failure -------+   (twice the pause)

Nobody is banned: a provider that failed is the same as before once it has served again.
While it is probed, one request at a time may use it.
"""

from dataclasses import dataclass
from enum import Enum, auto

FIRST_PAUSE_US = 10_000_000
"""What a restart of a stage's process takes."""
LONGEST_PAUSE_US = 600_000_000
TRIAL_US = 60_000_000
"""After which a probe that nobody reported on counts as over."""
MAX_NAMES = 10_000
"""Who fails and never comes back is forgotten; the registry itself is not longer."""


class Circuit(Enum):
    """How a provider is treated."""

    ACTIVE = auto()
    EXCLUDED = auto()
    PROBING = auto()


@dataclass(slots=True)
class _Failures:
    count: int = 0
    until_us: int = 0
    """End of the pause."""
    trial_us: int = 0
    """When the probe under way began; 0 without one."""


class Breaker:
    """The circuits of all providers that have failed.

    Times are the caller's monotonic microseconds.
    """

    def __init__(self) -> None:
        self._failures: dict[bytes, _Failures] = {}

    def get_circuit(self, name: bytes, now_us: int) -> Circuit:
        """Return how a provider is treated now."""
        failures = self._failures.get(name)
        if failures is None:
            return Circuit.ACTIVE
        return Circuit.EXCLUDED if now_us < failures.until_us else Circuit.PROBING

    def may_use(self, name: bytes, now_us: int) -> bool:
        """Tell whether a request may use a provider."""
        match self.get_circuit(name, now_us):
            case Circuit.ACTIVE:
                return True
            case Circuit.EXCLUDED:
                return False
            case Circuit.PROBING:
                trial_us = self._failures[name].trial_us
                return not trial_us or now_us - trial_us >= TRIAL_US

    def begin(self, name: bytes, now_us: int) -> None:
        """Note that a request uses a provider."""
        if self.get_circuit(name, now_us) is Circuit.PROBING:
            self._failures[name].trial_us = now_us

    def fail(self, name: bytes, now_us: int) -> None:
        """Note a failure."""
        failures = self._failures.pop(name, _Failures())
        if now_us >= failures.until_us:
            # Several requests that fail at once are one failure.
            pause_us = min(FIRST_PAUSE_US << failures.count, LONGEST_PAUSE_US)
            failures.count = min(failures.count + 1, 10)
            failures.until_us = now_us + pause_us
        failures.trial_us = 0
        if len(self._failures) >= MAX_NAMES:
            del self._failures[next(iter(self._failures))]
        self._failures[name] = failures

    def succeed(self, name: bytes) -> None:
        """Note that a provider has served to the end."""
        self._failures.pop(name, None)

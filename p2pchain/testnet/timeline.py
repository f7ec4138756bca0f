"""What happened when: one line per event, told at once and kept for the report."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event."""

    seconds: float
    """Since the start of the run."""
    height: int
    """The highest final height that any node had told of."""
    node: str
    """Whom it is about; empty for the whole network."""
    text: str

    def __str__(self) -> str:
        return f"{self.seconds:7.1f} s  h {self.height:>4}  {self.node:<12} {self.text}"


@dataclass(slots=True)
class Timeline:
    """All events so far."""

    say: Say
    height: int = 0
    """Kept by whoever watches the network."""
    entries: list[Entry] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return time.monotonic() - self._started

    def note(self, node: str, text: str) -> None:
        """Something happened now."""
        entry = Entry(self.seconds, self.height, node, text)
        self.entries.append(entry)
        self.say(str(entry))

"""A simulated machine's clock."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(slots=True)
class Clock:
    """A machine's own idea of time."""

    offset_ms: int = 0
    rate: float = 1.0
    """Its milliseconds per true millisecond."""

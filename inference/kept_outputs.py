"""
What a hop has sent on, kept for the case that the next one is lost.

A replacement needs the hidden states of every position so far; the hop before the gap
has made them, and the requester fetches them from there.  They take one hidden state
per position, little beside a stage's keys and values.  All sessions share one bound;
what does not fit is not kept, and the requester then replaces this hop as well.
"""

DEFAULT_LIMIT_BYTES = 512 * 1024 * 1024
"""64 sessions of 1,000 positions at 4,096 numbers of 16 bits."""


class OutputBudget:
    """The bytes that all sessions of a provider may keep."""

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.free = limit_bytes

    def take(self, size: int) -> bool:
        """Reserve bytes; False when there is no room."""
        if size > self.free:
            return False
        self.free -= size
        return True

    def give_back(self, size: int) -> None:
        """Return bytes that were reserved."""
        self.free += size


class KeptOutputs:
    """One session's outputs, from its first step's position on.

    Args:
        budget: Shared with the other sessions.
        token_bytes: One hidden state.
    """

    def __init__(self, budget: OutputBudget, token_bytes: int) -> None:
        self._budget = budget
        self._token_bytes = token_bytes
        self._data: bytearray | None = bytearray()
        self._start = 0

    def put(self, position: int, body: bytes) -> None:
        """Keep a step's output; a position that is there already is written over."""
        self.cut(position)
        data = self._data
        if data is None:
            return
        if not data:
            self._start = position
        is_next = len(data) == (position - self._start) * self._token_bytes
        if not is_next or not self._budget.take(len(body)):
            self.drop()
            return
        data += body

    def cut(self, position: int) -> None:
        """Forget everything from a position on."""
        size = max(0, position - self._start) * self._token_bytes
        if self._data is not None and len(self._data) > size:
            self._budget.give_back(len(self._data) - size)
            del self._data[size:]

    def get(self, position: int, tokens: int) -> bytes | None:
        """Return what was sent on for these positions, or None."""
        start = (position - self._start) * self._token_bytes
        end = start + tokens * self._token_bytes
        if self._data is None or not tokens or start < 0 or end > len(self._data):
            return None
        return bytes(self._data[start:end])

    def drop(self) -> None:
        """Keep nothing any more."""
        if self._data is not None:
            self._budget.give_back(len(self._data))
            self._data = None

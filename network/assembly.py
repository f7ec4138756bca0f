"""
A message on its way in.
"""

from network.errors import ProtocolViolation
from network.frames import MAX_DATA


class Assembly:
    """A message on its way in; memory grows with what arrived, not with promises."""

    def __init__(self, total: int, data: bytes) -> None:
        self.total = total
        self._parts = [data]
        self._size = len(data)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self._size == self.total

    def add(self, data: bytes) -> None:
        """Append a piece.

        Raises:
            ProtocolViolation: It is not cut as every sender cuts.
        """
        if len(data) != min(self.total - self._size, MAX_DATA):
            raise ProtocolViolation(f"a piece of {len(data)} bytes does not fit")
        self._parts.append(data)
        self._size += len(data)

    def join(self) -> bytes:
        """Return the whole message."""
        assert self.is_complete
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

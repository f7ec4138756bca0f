"""
What a hop has sent on, kept for the case that the next one is lost.

A replacement needs the hidden states of every position so far; the hop before the gap
has made them, and the requester fetches them from there.  They take one hidden state
per position, little beside a stage's keys and values.  All sessions share one bound;
what does not fit is not kept, and the requester then replaces this hop as well.

A session that begins with pages of another one (inference/protocol/prefix_keys.py)
needs the outputs of these positions as well: they are kept page by page under the same
keys, within the same bound, where they give way to open sessions.
"""

from collections import OrderedDict
from collections.abc import Sequence

from inference.device.memory import PAGE_TOKENS

DEFAULT_LIMIT_BYTES = 512 * 1024 * 1024
"""64 sessions of 1,000 positions at 4,096 numbers of 16 bits."""


PAGES_SHARE = 4
"""One of so many parts is for sessions that are over: it stays in the node's memory."""


class OutputBudget:
    """The bytes that all sessions of a provider may keep."""

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.free = limit_bytes
        self.pages = KeptPages(self, limit_bytes // PAGES_SHARE)
        """Of sessions that are over."""

    def take(self, size: int) -> bool:
        """Reserve bytes; False when there is no room."""
        while size > self.free and self.pages.evict():
            continue
        if size > self.free:
            return False
        self.free -= size
        return True

    def give_back(self, size: int) -> None:
        """Return bytes that were reserved."""
        self.free += size


class KeptPages:
    """Outputs of full pages by key; the one that was asked for longest ago goes first.

    Args:
        budget: Shared with the sessions.
        limit_bytes: Most of it that pages may take.
    """

    def __init__(self, budget: OutputBudget, limit_bytes: int) -> None:
        self._budget = budget
        self._limit = self._free = limit_bytes
        self._pages: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def size(self) -> int:
        """Bytes that they take."""
        return self._limit - self._free

    def put(self, key: bytes, outputs: bytes) -> None:
        """Keep a page, if there is room beside the open sessions."""
        if key in self._pages:
            self._pages.move_to_end(key)
            return
        while len(outputs) > self._free and self.evict():
            continue
        if len(outputs) <= self._free and self._budget.take(len(outputs)):
            self._free -= len(outputs)
            self._pages[key] = outputs

    def find(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the outputs of the first keys as far as they are here."""
        found = []
        for key in keys:
            outputs = self._pages.get(key)
            if outputs is None:
                break
            found.append(outputs)
        for key in reversed(keys[: len(found)]):
            self._pages.move_to_end(key)
        return found

    def evict(self) -> bool:
        """Forget one page; False when there is none."""
        if not self._pages:
            return False
        _, outputs = self._pages.popitem(last=False)
        self._budget.give_back(len(outputs))
        self._free += len(outputs)
        return True


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

    def keep_pages(self, first: int, keys: Sequence[bytes]) -> None:
        """Let later sessions have the outputs of full pages, from page `first` on."""
        # Last pages first, so that a beginning outlives what followed it.
        for page, key in reversed(list(enumerate(keys, first))):
            outputs = self.get(page * PAGE_TOKENS, PAGE_TOKENS)
            if outputs is not None:
                self._budget.pages.put(key, outputs)

    def drop(self) -> None:
        """Keep nothing any more."""
        if self._data is not None:
            self._budget.give_back(len(self._data))
            self._data = None

"""
Full pages by the key of what they hold, for sessions that begin alike.  No torch.

A key stands for a whole beginning: all tokens from position 0 to the page's last one,
and whose they are (inference/protocol/prefix_keys.py).  So a session's pages are found
one by one until a key is not known, and an entry is right or wrong by itself, whatever
became of those before it.

A page with a name is held by the sessions that use it and is never written.  When
nobody holds it any more it stays, until its room is needed: the one that was let go
first goes first.  A session lets go of its last pages first, so a beginning outlives
what followed it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile


@dataclass(slots=True)
class _Entry:
    page: int
    users: int
    """Sessions that hold it."""


class PrefixIndex:
    """The pages of a pool that have names."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._keys: dict[int, bytes] = {}
        """Of pages."""
        self._unused: OrderedDict[bytes, None] = OrderedDict()
        """Held by nobody, in the order in which they will be forgotten."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def unused_pages(self) -> int:
        """Pages with names that nobody holds."""
        return len(self._unused)

    def list_unused(self) -> list[int]:
        """Return the pages with names that nobody holds."""
        return [self._entries[key].page for key in self._unused]

    def hold(self, keys: Sequence[bytes]) -> list[int]:
        """Hold the pages of the first keys as far as they are known; return them."""
        pages = self.find(keys)
        for key in keys[: len(pages)]:
            self._entries[key].users += 1
            self._unused.pop(key, None)
        return pages

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Return the same without holding them; whoever reads them does so at once."""
        known = takewhile(self._entries.__contains__, keys)
        return [self._entries[key].page for key in known]

    def add(self, key: bytes, page: int) -> bool:
        """Name a page that one session holds; False where the key names another."""
        if key in self._entries or page in self._keys:
            return False
        self._entries[key] = _Entry(page, users=1)
        self._keys[page] = key
        return True

    def let_go(self, pages: Iterable[int]) -> None:
        """Note that a session holds these no more; the first of them is oldest."""
        for page in pages:
            key = self._keys[page]
            entry = self._entries[key]
            assert entry.users > 0
            entry.users -= 1
            if not entry.users:
                self._unused[key] = None

    def claim(self, page: int) -> bool:
        """Take a page's name away for the one session that holds it.

        Returns:
            False where others hold it too; then it keeps its name.
        """
        key = self._keys[page]
        if self._entries[key].users > 1:
            return False
        del self._entries[key], self._keys[page]
        return True

    def evict(self) -> int | None:
        """Forget the page that was let go first; None when all are held."""
        if not self._unused:
            return None
        key, _ = self._unused.popitem(last=False)
        page = self._entries.pop(key).page
        del self._keys[page]
        return page

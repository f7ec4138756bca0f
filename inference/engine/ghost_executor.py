"""
GHOST, the general engine: a cache of the library's kind per session, one at a time.

It runs what the ragged engine cannot: masks of other kinds, attention outside of the
library's interface, layers with a state, rotary embeddings that follow the longest
sequence.  Its results equal the undivided model bit for bit.
"""

import torch

from inference.device.memory import CacheCost
from inference.engine.scheduler import Work
from inference.errors import BadAnswer
from inference.model.ghost_cache import GhostCache
from inference.model.ghost_pass import run_pass
from inference.model.part import Part


class GhostExecutor:
    """The layers of a part, and a ghost cache per session."""

    name = "ghost"
    splits = False
    shares = False

    def __init__(self, part: Part) -> None:
        """Take a loaded part."""
        self.part = part
        self.cost = CacheCost(0)
        """Measured on the first cache that is forgotten, the self-test's."""
        self._caches: dict[bytes, GhostCache] = {}

    def allocate(self, pages: int) -> None:
        """Forget everything; caches grow by themselves within what was promised."""
        self._caches.clear()

    def run(self, works: list[Work], hidden: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the works one after another."""
        return [
            self._run(work, states) for work, states in zip(works, hidden, strict=True)
        ]

    def forget(self, session_id: bytes) -> None:
        """Drop a session's cache."""
        cache = self._caches.pop(session_id, None)
        if cache is not None and self.cost == CacheCost(0) and cache.length:
            self.cost = CacheCost(
                cache.measure_position_bytes(), cache.measure_state_bytes()
            )

    def copy_page(self, source: int, target: int) -> None:
        """Nothing to do: caches are no pages, and nobody shares them."""

    def read_page(self, page: int) -> bytes:
        """Return nothing: nobody has a page's name."""
        return b""

    def write_page(self, page: int, content: memoryview) -> None:
        """Refuse: there are no pages."""
        raise BadAnswer("this engine has no pages")

    def _run(self, work: Work, hidden: torch.Tensor) -> torch.Tensor:
        cache = self._caches.get(work.session_id)
        if cache is None:
            cache = GhostCache(self.part.config, self.part.layers)
            self._caches[work.session_id] = cache
        if work.position < cache.length:
            cache.truncate(work.position)
        return run_pass(self.part, cache, hidden)

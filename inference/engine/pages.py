"""
The pages of a stage's key-value store: who has which.  Integers only, no torch.

A session gets all its pages when it opens (inference/device/memory.py says why), in one
run where there is one: then its keys and values lie side by side and attention reads
them without a copy.  Where the pool is fragmented it gets several runs, the longest
first.

A session that begins like another one shares that one's first pages (prefix_index.py);
its own follow right behind them where there is room.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from inference.device.memory import PAGE_TOKENS


@dataclass(frozen=True, slots=True, order=True)
class PageRun:
    """Pages `start` to `start + count - 1`."""

    start: int
    count: int

    @property
    def end(self) -> int:
        """The page after the last one."""
        return self.start + self.count


class PagePool:
    """Free pages as runs, in order and never adjacent to each other."""

    def __init__(self, pages: int) -> None:
        """Begin with all of `pages` free."""
        self._free = [PageRun(0, pages)] if pages else []

    @property
    def free_pages(self) -> int:
        """How many are free."""
        return sum(run.count for run in self._free)

    def has_run(self, pages: int, others: Iterable[int] = ()) -> bool:
        """Whether so many lie side by side.

        Args:
            pages: How many.
            others: Pages that count as free, too.
        """
        if any(run.count >= pages for run in self._free):
            return True
        start = end = 0
        for run in sorted([*self._free, *(PageRun(page, 1) for page in others)]):
            start = start if run.start == end else run.start
            end = run.end
            if end - start >= pages:
                return True
        return False

    def take(self, pages: int, place: int | None = None) -> tuple[PageRun, ...]:
        """Return runs of `pages` pages in all; the caller knows that there are so many.

        The smallest run that holds all of them, so that long ones stay for long
        sessions; without one, the longest runs.

        Args:
            pages: At least 1.
            place: The first page, if all of them are free from there on.
        """
        assert 0 < pages <= self.free_pages
        taken: list[PageRun] = []
        while pages:
            fitting = [run for run in self._free if run.count >= pages]
            wanted = [run for run in fitting if run.start == place]
            if fitting:
                chosen = min(wanted or fitting, key=lambda run: run.count)
            else:
                chosen = max(self._free, key=lambda run: run.count)
            count = min(pages, chosen.count)
            index = bisect_left(self._free, chosen)
            rest = PageRun(chosen.start + count, chosen.count - count)
            self._free[index : index + 1] = [rest] if rest.count else []
            taken.append(PageRun(chosen.start, count))
            pages -= count
        return tuple(taken)

    def give_back(self, runs: tuple[PageRun, ...]) -> None:
        """Free what `take` returned."""
        for run in runs:
            index = bisect_left(self._free, run)
            before = self._free[index - 1] if index else None
            after = self._free[index] if index < len(self._free) else None
            assert before is None or before.end <= run.start
            assert after is None or run.end <= after.start
            first, last, start, end = index, index, run.start, run.end
            if before is not None and before.end == start:
                first, start = index - 1, before.start
            if after is not None and after.start == end:
                last, end = index + 1, after.end
            self._free[first:last] = [PageRun(start, end - start)]


def build_runs(pages: Iterable[int]) -> tuple[PageRun, ...]:
    """Return pages, in their order, as few runs."""
    runs: list[PageRun] = []
    for page in pages:
        if runs and runs[-1].end == page:
            runs[-1] = PageRun(runs[-1].start, runs[-1].count + 1)
        else:
            runs.append(PageRun(page, 1))
    return tuple(runs)


def find_slots(
    pages: tuple[PageRun, ...], start: int, end: int
) -> list[tuple[int, int]]:
    """Return where the positions [start, end) of a session lie in the store.

    A slot is the place of one position: page x PAGE_TOKENS + position in the page.

    Returns:
        Ranges [first, last) of slots, in order of position, without empty ones.
    """
    ranges: list[tuple[int, int]] = []
    position = 0
    for run in pages:
        length = run.count * PAGE_TOKENS
        low, high = max(start - position, 0), min(end - position, length)
        if low < high:
            base = run.start * PAGE_TOKENS
            ranges.append((base + low, base + high))
        position += length
    assert sum(high - low for low, high in ranges) == end - start
    return ranges

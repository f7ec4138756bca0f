"""
Keys and values of all sessions of a stage, page by page, one store per layer.

A store is (slots, heads, width): a position's keys of all heads lie together, so that
a run of pages is a slice, and attention reads it as (heads, positions, width) without
a copy.  The store is as large as the budget; memory that no token has touched is not
taken from the system.
"""

from dataclasses import dataclass

import torch

from inference.device.memory import PAGE_TOKENS
from inference.errors import BadAnswer

Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of a position."""

    heads: int
    key_width: int
    value_width: int
    """Differs from the keys' in latent attention."""
    window: int | None
    """Positions that a token attends to, itself included; None for all."""


class PagedStore:
    """One layer's keys and values."""

    def __init__(
        self, shape: LayerShape, pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Make room for `pages` pages; untouched memory costs nothing."""
        slots = pages * PAGE_TOKENS
        self.shape = shape
        self.keys = torch.empty(
            slots, shape.heads, shape.key_width, dtype=dtype, device=device
        )
        self.values = torch.empty(
            slots, shape.heads, shape.value_width, dtype=dtype, device=device
        )

        # Views: (1, heads, slots, width), of which a range is one cheap view more.
        self._read_keys = self.keys.transpose(0, 1).unsqueeze(0)
        self._read_values = self.values.transpose(0, 1).unsqueeze(0)

    def read_range(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of slots that lie together, as `read` does."""
        count = last - first
        return (
            self._read_keys.narrow(2, first, count),
            self._read_values.narrow(2, first, count),
        )

    def read(self, ranges: Ranges) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of some slots, (1, heads, positions, width) each."""
        if len(ranges) == 1:
            return self.read_range(*ranges[0])
        return _gather(self.keys, ranges), _gather(self.values, ranges)

    def copy_page(self, source: int, target: int) -> None:
        """Write what one page holds to another one."""
        read, write = source * PAGE_TOKENS, target * PAGE_TOKENS
        for store in (self.keys, self.values):
            store[write : write + PAGE_TOKENS] = store[read : read + PAGE_TOKENS]

    @property
    def page_bytes(self) -> int:
        """What a page of this layer takes."""
        return PAGE_TOKENS * sum(store[0].nbytes for store in (self.keys, self.values))

    def dump(self, page: int) -> tuple[bytes, bytes]:
        """Return keys and values of a page."""
        first = page * PAGE_TOKENS
        keys, values = (
            bytes(each[first : first + PAGE_TOKENS].cpu().view(torch.uint8).numpy())
            for each in (self.keys, self.values)
        )
        return keys, values

    def load(self, page: int, content: memoryview) -> None:
        """Write what `dump` gave.

        Args:
            page: Which one.
            content: `page_bytes` of keys and values.

        Raises:
            BadAnswer: NaN or infinity, which would come out of our own layers.
        """
        first = page * PAGE_TOKENS
        for store in (self.keys, self.values):
            place = store[first : first + PAGE_TOKENS]
            # A copy, for the bytes may be of anybody's and not be written to.
            found = torch.frombuffer(
                bytearray(content[: place.nbytes]), dtype=store.dtype
            )
            if not bool(torch.isfinite(found).all()):
                raise BadAnswer("kept pages with NaN or infinity")
            place.copy_(found.view(place.shape))
            content = content[place.nbytes :]


def _gather(store: torch.Tensor, ranges: Ranges) -> torch.Tensor:
    found = torch.cat([store[first:last] for first, last in ranges])
    return found.transpose(0, 1).unsqueeze(0)

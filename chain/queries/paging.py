"""Pages of long lists, by key: they neither shift nor repeat when blocks arrive."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from primitives.errors import RemoteError
from primitives.kv import KeyValueStore

PAGE = 25
MAX_PAGE = 1000
"""A page of the largest items is then below 1 MB."""

T = TypeVar("T")


class InvalidCursor(RemoteError):
    """An `after` that no page of this list ever gave."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list."""

    items: tuple[T, ...]
    next: str | None
    """Give it as `after` for what follows; None at the end."""


def build_page(
    keys: Iterator[bytes], find: Callable[[bytes], T | None], limit: int
) -> Page[T]:
    """Return the page of up to `limit` keys; one more key says that there are more.

    Args:
        keys: From the first one of the page on.
        find: Returns the item of a key; None leaves it out.
        limit: Clipped to 1 .. `MAX_PAGE`.
    """
    size = max(1, min(limit, MAX_PAGE))
    shown: list[bytes] = []
    for key in keys:
        if len(shown) == size:
            return Page(_find_all(shown, find), shown[-1].hex())
        shown.append(key)
    return Page(_find_all(shown, find), None)


def iterate_keys(
    store: KeyValueStore, prefix: bytes, after: str | None
) -> Iterator[bytes]:
    """Yield the keys under `prefix` that follow a cursor, the greatest first.

    Raises:
        InvalidCursor: Not a cursor of this list.
    """
    start = None if after is None else parse_cursor(after)
    if start is not None and not start.startswith(prefix):
        raise InvalidCursor("a cursor of another list")
    for key, _ in store.iterate(prefix, start=start, reverse=True):
        if key != start:
            yield key


def parse_cursor(after: str) -> bytes:
    """Return the key that a cursor names.

    Raises:
        InvalidCursor: Not a cursor at all.
    """
    try:
        return bytes.fromhex(after)
    except ValueError as error:
        raise InvalidCursor("not a cursor of this list") from error


def _find_all(keys: list[bytes], find: Callable[[bytes], T | None]) -> tuple[T, ...]:
    return tuple(item for item in map(find, keys) if item is not None)

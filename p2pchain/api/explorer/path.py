"""A path of the explorer: what the table of routes and its document are made of."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from p2pchain.api.params import Param

Read = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Path:
    """One path: where its arguments come from and what answers it."""

    pattern: str
    read: Read
    """`async read(backend, **arguments)` on the trio thread; gives JSON, or text."""
    params: tuple[Param, ...] = ()
    """Of the path and of the query string together."""
    is_final: bool = False
    """The answer never changes once it is final."""

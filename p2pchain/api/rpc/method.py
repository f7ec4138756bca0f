"""One JSON-RPC method: name, parameters, handler, and what documents say of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from p2pchain.api.backend import Backend
from p2pchain.api.params import Param

Json = dict[str, Any]
Handler = Callable[..., Awaitable[Any]]
"""`async handler(backend, **params)` on the trio thread; returns JSON."""


class Access(Enum):
    """Who may call a method, and how."""

    READ = "read"
    """Anybody, by POST and GET."""
    WRITE = "write"
    """Anybody, by POST only: a link or an image must not be able to submit."""
    WALLET = "wallet"
    """Who holds the node's token, by POST only."""


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of the method table."""

    name: str
    summary: str
    handler: Handler
    params: tuple[Param, ...] = ()
    access: Access = Access.READ

    async def run(self, backend: Backend, arguments: Json) -> Any:
        """Carry the call out, on the trio thread."""
        return await self.handler(backend, **arguments)

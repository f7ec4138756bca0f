"""Channels to providers: filled before a session, and ahead for those who may replace.

Only the first fill is waited for.  Nobody waits for the other one, and what fails there
is tried again by whoever needs it.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import trio

from p2pchain.api.errors import InsufficientFunds, TransactionRejected
from p2pchain.errors import TransactionFailed
from p2pchain.node.gateway.route_finder import FoundHop, RouteFinder
from p2pchain.node.money.channel_pool import ChannelPool, Need
from primitives.errors import P2PChainError
from wallet import errors as wallet_errors

log = logging.getLogger(__name__)


class ChannelFiller:
    """The channels of one gateway, with what goes wrong in the words of the API."""

    def __init__(self, pool: ChannelPool, routes: RouteFinder) -> None:
        """
        Args:
            pool: Opens and fills them.
            routes: Knows who may take over.
        """
        self._pool = pool
        self._routes = routes
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Fill ahead until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    async def fill(self, needs: Sequence[Need]) -> None:
        """Return when there are channels that can pay for all of it.

        Raises:
            InsufficientFunds: The account cannot.
            TransactionRejected: The chain did not want it.
        """
        try:
            await self._pool.fill(needs)
        except wallet_errors.InsufficientFunds as error:
            raise InsufficientFunds(str(error)) from error
        except TransactionFailed as error:
            text = f"the chain refused to open or fill a channel: {error}"
            raise TransactionRejected(text, reason=error.code) from error

    def prepare(self, route: tuple[FoundHop, ...], need: Need) -> None:
        """Open channels to those who could take over, while nobody waits for it.

        Args:
            route: Who serves now.
            need: Of one of them.
        """
        if self._nursery is not None:
            self._nursery.start_soon(self._fill_ahead, route, need)

    async def _fill_ahead(self, route: tuple[FoundHop, ...], need: Need) -> None:
        # The session begins first.
        await trio.lowlevel.checkpoint()
        backups = self._routes.find_backups(route)
        needs = [replace(need, registration=each.registration) for each in backups]
        try:
            await self._pool.fill(needs)
        except P2PChainError as error:
            log.info("no channels to replacements yet: %s", error)

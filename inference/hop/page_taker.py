"""
Takes pages from another hop of the same layers, where that is cheaper than computing.

Both are measured, and nothing is assumed.  What a position costs here is known from the
prefill steps of the last sessions; without any, nothing is fetched.  What it costs to
fetch one is known from the last transfer, or from the first pages of this one: when the
rest would take longer to come than to compute, the transfer ends, and what has come is
used.  In all it never takes longer than computing would.

Whatever goes wrong, the session computes what it has not got.
"""

import logging
from dataclasses import dataclass, field

import trio

from inference.device.memory import PAGE_TOKENS
from inference.errors import BadAnswer
from inference.hop.ports import HopPorts
from inference.protocol.activations import compute_size, is_finite
from inference.protocol.codec import Codec
from inference.protocol.errors import BadMessage
from inference.protocol.messages import MAX_BODY_BYTES, SessionTerms
from inference.protocol.page_messages import (
    MAX_PAGE_BYTES,
    PAGES_PROTOCOL,
    AskPages,
    GivePages,
    PageGrant,
    RefusePages,
    check_pages,
    decode_page_frame,
    encode_page_frame,
)
from inference.protocol.steps import MAX_DECODE_TOKENS
from primitives.errors import P2PChainError

MAX_TAKE_S = 5.0
"""For all pages of a session: its requester waits for the opening, and not for long."""
MAX_RATES = 256
"""Givers whose speed is remembered."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PrefillPace:
    """What a position of a prompt takes here, smoothed; 0 until it was measured."""

    position_us: float = 0.0

    def note(self, tokens: int, compute_us: int) -> None:
        """Note a prefill step; short ones say little of long ones."""
        if tokens <= MAX_DECODE_TOKENS:
            return
        now = compute_us / tokens
        self.position_us = (3 * self.position_us + now) / 4 if self.position_us else now


@dataclass(slots=True)
class PageTaker:
    """Fetches pages for sessions that open; one transfer per session.

    Args:
        ports: What the node provides.
        pace: Of our own layers.
    """

    ports: HopPorts
    pace: PrefillPace
    taken: int = 0
    """Pages in all."""
    _page_s: dict[bytes, float] = field(default_factory=dict)
    """What a page of a giver took to come."""

    async def take(
        self, terms: SessionTerms, grant: PageGrant, first: int, end: int
    ) -> list[bytes]:
        """Give a session its pages from `first` on, as far as they come in time.

        Args:
            terms: Of the session, which is open in the worker.
            grant: Names the pages and who has them.
            first: The first page that is not here.
            end: The page after the last one that is of use.

        Returns:
            The outputs of the pages that have come.
        """
        page_s = self.pace.position_us * PAGE_TOKENS / 1e6
        budget_s = min(MAX_TAKE_S, (end - first) * page_s)
        known_s = self._page_s.get(grant.giver)
        if terms.codec != Codec.RAW:
            # Givers have outputs of lossless sessions only.
            return []
        if end <= first or not page_s or (known_s is not None and known_s >= page_s):
            return []
        outputs: list[bytes] = []
        try:
            with trio.move_on_after(budget_s):
                await self._receive(terms, grant, first, end, outputs)
        except BadMessage as error:
            self.ports.on_fault(grant.giver, str(error))
        except P2PChainError as error:
            log.info("no pages from %s: %s", grant.giver.hex()[:8], error)
        self.taken += len(outputs)
        return outputs

    async def _receive(
        self,
        terms: SessionTerms,
        grant: PageGrant,
        first: int,
        end: int,
        outputs: list[bytes],
    ) -> None:
        """Put pages into the worker as they come; adds to `outputs`."""
        output_bytes = compute_size(PAGE_TOKENS, terms.hidden_size, terms.dtype)
        page_bytes = self.ports.worker.page_bytes
        if not 0 < page_bytes + output_bytes <= MAX_PAGE_BYTES:
            return
        started = trio.current_time()
        stream = await self.ports.dialer.open_stream(grant.giver, PAGES_PROTOCOL)
        try:
            await stream.send(encode_page_frame(AskPages(grant, first)))
            while first < end:
                frame = await stream.receive()
                message, body = decode_page_frame(frame, MAX_BODY_BYTES)
                if isinstance(message, RefusePages):
                    log.info("pages are refused: %s", message.text)
                    return
                if not isinstance(message, GivePages):
                    raise BadMessage(f"{type(message).__name__} instead of pages")
                check_pages(message, body, grant, first, page_bytes + output_bytes)
                if not message.pages:
                    return
                pages = min(message.pages, end - first)
                outputs += await self._use(terms, body, message.pages, pages)
                first += pages
                page_s = (trio.current_time() - started) / len(outputs)
                self._remember(grant.giver, page_s)
                if page_s * 1e6 >= self.pace.position_us * PAGE_TOKENS:
                    return
        finally:
            stream.abort()

    async def _use(
        self, terms: SessionTerms, body: bytes, given: int, pages: int
    ) -> list[bytes]:
        """Write the first pages of a body to the worker; return their outputs."""
        page_bytes = self.ports.worker.page_bytes
        said = body[given * page_bytes :]
        if not is_finite(said, terms.dtype):
            raise BadMessage("outputs of pages that are not finite numbers")
        content = body[: pages * page_bytes]
        try:
            await self.ports.worker.write_pages(terms.session, content, pages)
        except BadAnswer as error:
            raise BadMessage(str(error)) from error
        size = len(said) // given
        return [said[index * size : (index + 1) * size] for index in range(pages)]

    def _remember(self, giver: bytes, page_s: float) -> None:
        self._page_s.pop(giver, None)
        self._page_s[giver] = page_s
        if len(self._page_s) > MAX_RATES:
            del self._page_s[next(iter(self._page_s))]

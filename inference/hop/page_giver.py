"""
Gives kept pages to hops of the same layers, where their owner wants it.

Nobody pays for it, so it is bounded: how many are served at once, how often a taker
asks, and how many bytes of an account are given in the long run.  Takers are keys that
cost nothing; accounts have a channel and what was kept for them was paid.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile

import trio

from inference.device.memory import PAGE_TOKENS
from inference.hop.allowances import Allowances
from inference.hop.driver import compute_now_us
from inference.hop.kept_outputs import OutputBudget
from inference.hop.ports import HopOffer, HopPorts, Stream
from inference.hop.prefix import derive_keys
from inference.protocol.activations import compute_size
from inference.protocol.errors import BadMessage
from inference.protocol.messages import clip_text
from inference.protocol.page_messages import (
    BATCH_BYTES,
    MAX_PAGE_BYTES,
    AskPages,
    GivePages,
    PageGrant,
    RefusePages,
    RefusePagesCode,
    compute_pages_message,
    decode_page_frame,
    encode_page_frame,
    verify_grant,
)
from primitives.errors import P2PChainError
from primitives.hashing import compute_blob_hash

MAX_TAKERS = 2
"""At once: our own sessions need the link, too."""
ASK_S = 5.0
"""For the question, which comes first on its stream."""
GIVE_S = 10.0
"""For all pages; whoever takes longer computes them in less."""
ASKS_PER_S = 2.0
ASKS_BURST = 16
"""Of one taker: it asks once for a session that opens behind another hop than before,
and a refusal costs a signature."""
GIVE_BYTES_PER_S = 16 * 1024 * 1024
GIVE_BURST_BYTES = 1024 * 1024 * 1024
"""Of one account's pages: a long chat at once (4,096 positions of an 8B model are half
of that), then an eighth of a link of a gigabit."""

Send = Callable[[bytes], Awaitable[None]]

log = logging.getLogger(__name__)


class _Refusal(Exception):
    """We give nothing; becomes RefusePages."""

    def __init__(self, code: RefusePagesCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class PageGiver:
    """Answers who asks for pages.

    Args:
        ports: What the node provides.
        budget: Of kept outputs.
    """

    def __init__(self, ports: HopPorts, budget: OutputBudget) -> None:
        self._ports = ports
        self._budget = budget
        self._takers: set[bytes] = set()
        self._asks = Allowances(ASKS_PER_S, ASKS_BURST)
        """By taker."""
        self._bytes = Allowances(GIVE_BYTES_PER_S, GIVE_BURST_BYTES)
        """By account."""
        self.given = 0
        """Pages in all."""

    async def serve(self, stream: Stream) -> None:
        """Serve a stream that another hop opened; returns when it is over."""
        peer_id = stream.peer_id
        try:
            with trio.fail_after(ASK_S):
                frame = await stream.receive()
            message, _ = decode_page_frame(frame, 0)
            if not isinstance(message, AskPages):
                raise BadMessage(f"{type(message).__name__} as the first message")
            await self._answer(message, stream)
            await stream.close()
            return
        except trio.TooSlowError:
            log.info("%s has asked for nothing", peer_id.hex()[:8])
        except BadMessage as error:
            self._ports.on_fault(peer_id, str(error))
        except P2PChainError as error:
            log.info("pages for %s: %s", peer_id.hex()[:8], error)
        stream.abort()

    async def _answer(self, ask: AskPages, stream: Stream) -> None:
        taker = stream.peer_id
        try:
            offer = self._validate(ask, taker)
        except _Refusal as refusal:
            refuse = RefusePages(refusal.code, clip_text(str(refusal)))
            await stream.send(encode_page_frame(refuse))
            return
        self._takers.add(taker)
        try:
            with trio.move_on_after(GIVE_S):
                await self._give(ask, offer, stream.send)
        finally:
            self._takers.discard(taker)

    def _validate(self, ask: AskPages, taker: bytes) -> HopOffer:
        """Return our offer, if the grant is for it; raises _Refusal."""
        grant, offer = ask.grant, self._ports.get_offer()
        if not self._asks.take(taker, 1, compute_now_us()):
            raise _Refusal(RefusePagesCode.TOO_OFTEN, "pages are asked for too often")
        if grant.chain_id != self._ports.chain_id:
            raise _Refusal(RefusePagesCode.INVALID, "a grant of another chain")
        if (grant.giver, grant.taker) != (self._ports.key.public_key, taker):
            raise _Refusal(RefusePagesCode.INVALID, "a grant for somebody else")
        if offer is None or not offer.shares:
            raise _Refusal(RefusePagesCode.NOT_SERVED, "nothing is shared here")
        served = (offer.profile, offer.start, offer.end)
        if (grant.profile, grant.start, grant.end) != served:
            text = f"layers {offer.start}-{offer.end} of another profile or range"
            raise _Refusal(RefusePagesCode.NOT_SERVED, text)
        if taker in self._takers or len(self._takers) >= MAX_TAKERS:
            raise _Refusal(RefusePagesCode.BUSY, "others are being given pages")
        if not verify_grant(grant):
            raise _Refusal(RefusePagesCode.INVALID, "not signed by its signer")
        return offer

    async def _give(self, ask: AskPages, offer: HopOffer, send: Send) -> None:
        grant, first = ask.grant, ask.first
        keys = derive_keys(grant, grant.scope, grant.names)
        output_bytes = compute_size(PAGE_TOKENS, offer.hidden_size, offer.dtype)
        page_bytes = self._ports.worker.page_bytes
        size = page_bytes + output_bytes
        batch = max(1, BATCH_BYTES // size) if size <= MAX_PAGE_BYTES else 0
        while True:
            # What is asked for now was used now; the worker is asked in small bites.
            wanted = keys[first : first + batch]
            outputs = self._find_outputs(wanted, output_bytes)
            content = b""
            if outputs:
                content = await self._ports.worker.read_pages(wanted[: len(outputs)])
            pages = len(content) // page_bytes if page_bytes else 0
            if not self._bytes.take(grant.client, pages * size, compute_now_us()):
                text = "so much was given of the account's pages already"
                refuse = RefusePages(RefusePagesCode.TOO_MUCH, text)
                await send(encode_page_frame(refuse))
                return
            body = content + b"".join(outputs[:pages])
            await send(encode_page_frame(self._sign(grant, first, pages, body), body))
            first += pages
            self.given += pages
            if not pages:
                return

    def _find_outputs(self, keys: Sequence[bytes], size: int) -> list[bytes]:
        """Return outputs as far as they are lossless, which their length tells.

        Their owner may have had its hidden states sent in another codec; a taker
        would hold those to be our fault.
        """
        found = self._budget.pages.find(keys)
        return list(takewhile(lambda outputs: len(outputs) == size, found))

    def _sign(self, grant: PageGrant, first: int, pages: int, body: bytes) -> GivePages:
        digest = compute_blob_hash(body)
        signed = compute_pages_message(grant.session, first, pages, digest)
        return GivePages(first, pages, digest, self._ports.key.sign(signed))

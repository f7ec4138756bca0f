"""
A provider's service: admits sessions and runs one driver for each.

Three handlers are registered with the network: `serve_hop` for streams that requesters
open, `serve_push` for those that previous hops open, `serve_pages` for hops that lack
what we have kept.  A session lives in the task of
its requester's stream.  What a peer does wrong never raises out of a handler: it costs
the peer (`on_fault`) and ends the session.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio

from inference.device.memory import PAGE_TOKENS
from inference.errors import Busy
from inference.hop.admission import (
    Refusal,
    validate_channel,
    validate_funds,
    validate_open,
)
from inference.hop.allowances import Allowances
from inference.hop.channel_account import ChannelAccount
from inference.hop.driver import CLEANUP_S, HopDriver, compute_now_us
from inference.hop.events import Expired, GivingUp, PoolChanged
from inference.hop.hop import HopSession
from inference.hop.kept_outputs import OutputBudget
from inference.hop.life import Phase
from inference.hop.page_giver import PageGiver
from inference.hop.page_taker import PageTaker, PrefillPace
from inference.hop.places import Holder, NoPlace, Places
from inference.hop.ports import HopLimits, HopPorts, Stream
from inference.hop.prefix import HopPrefix
from inference.hop.route import HopRoute
from inference.protocol.codec import Codec
from inference.protocol.codes import RefuseCode
from inference.protocol.errors import BadMessage
from inference.protocol.messages import (
    PUSH_PROTOCOL,
    Abort,
    Data,
    Finish,
    Message,
    Open,
    Refuse,
    SessionTerms,
    clip_text,
    decode_frame,
    encode_frame,
)
from inference.protocol.page_messages import build_grant
from inference.protocol.terms import get_schedule, has_one_step
from inference.protocol.wire_form import WireForm
from primitives.errors import P2PChainError, RemoteError

log = logging.getLogger(__name__)


class HopService:
    """All sessions of this provider."""

    def __init__(self, ports: HopPorts, limits: HopLimits | None = None) -> None:
        self._ports = ports
        self._limits = limits or HopLimits()
        self._is_stopping = False
        self._max_body = 0
        self._budget = OutputBudget(self._limits.max_kept_bytes)
        self.pace = PrefillPace()
        self._taker = PageTaker(ports, self.pace)
        self._giver = PageGiver(ports, self._budget)
        self._drivers: dict[bytes, HopDriver] = {}
        self.pages_found = 0
        """Pages that sessions had when they began, and did not pay for."""
        self._places = Places(self._limits)
        self._telling = Allowances(
            self._limits.tell_bytes_per_s, self._limits.tell_burst_bytes
        )
        """Bytes that are said again, by account."""
        self._silent: Counter[bytes] = Counter()
        """Streams of neighbours that have not said which session they are for."""
        self._accounts: dict[bytes, ChannelAccount] = {}

    @property
    def sessions(self) -> int:
        """Sessions that are open or being opened."""
        return len(self._places)

    @property
    def pages_given(self) -> int:
        """Pages of kept beginnings that others have got from us."""
        return self._giver.given

    @property
    def pages_taken(self) -> int:
        """Those that we have got from others."""
        return self._taker.taken

    @property
    def pages_kept(self) -> int:
        """Pages of beginnings with which later sessions can begin."""
        return len(self._budget.pages)

    @property
    def kept_bytes(self) -> int:
        """What their outputs take in this process; the worker has the pages."""
        return self._budget.pages.size

    def leave(self) -> None:
        """Take no new sessions and ask the open ones to move to another provider."""
        self._is_stopping = True
        for driver in self._drivers.values():
            driver.leave()

    def stop(self) -> None:
        """Take no new sessions and end the open ones; their handlers return soon."""
        self._is_stopping = True
        for driver in self._drivers.values():
            driver.post(GivingUp())

    # Handlers

    async def serve_hop(self, stream: Stream) -> None:
        """Serve a stream that a requester opened; returns when it is over."""
        first = await self._receive_first(stream, self._limits.open_s, Open)
        if first is None:
            return
        message, _ = first
        assert isinstance(message, Open)
        try:
            await self._serve_session(message, stream)
        except Refusal as refusal:
            session_id = message.terms.session
            log.info("session %s refused: %s", session_id.hex()[:8], refusal)
            text = clip_text(str(refusal))
            refuse = Refuse(session_id, refusal.code, text, refusal.owed_units)
            try:
                await stream.send(encode_frame(refuse))
                await stream.close()
            except P2PChainError:
                stream.abort()

    async def serve_push(self, stream: Stream) -> None:
        """Serve a stream that a previous hop opened; returns when it is over.

        The first frame, which names the session, comes with the requester's first
        step; by then every hop has accepted.
        """
        peer_id = stream.peer_id
        if self._silent[peer_id] >= self._limits.max_silent_pushes:
            stream.abort()
            return
        self._silent[peer_id] += 1
        try:
            first = await self._receive_first(
                stream, self._limits.idle_s, Data | Finish | Abort
            )
        finally:
            self._silent[peer_id] -= 1
            if not self._silent[peer_id]:
                del self._silent[peer_id]
        if first is None:
            return
        message, frame = first
        assert isinstance(message, Data | Finish | Abort)
        driver = self._drivers.get(message.session)
        if driver is None or not await driver.hear_previous(stream, frame):
            # Nobody's fault: the session may just have ended here.
            stream.abort()

    async def serve_pages(self, stream: Stream) -> None:
        """Serve a stream on which another hop asks for pages."""
        await self._giver.serve(stream)

    async def _receive_first(
        self, stream: Stream, wait_s: float, kinds: type | object
    ) -> tuple[Message, bytes] | None:
        """Return the first message and its frame, or None when the stream is over."""
        try:
            with trio.fail_after(wait_s):
                frame = await stream.receive()
            message, _ = decode_frame(frame, self._get_max_body())
            if not isinstance(message, kinds):  # type: ignore[arg-type]
                raise BadMessage(f"{type(message).__name__} as the first message")
        except RemoteError as error:
            self._ports.on_fault(stream.peer_id, str(error))
            stream.abort()
            return None
        except (P2PChainError, trio.TooSlowError):
            stream.abort()
            return None
        return message, frame

    # One session

    async def _serve_session(self, message: Open, stream: Stream) -> None:
        """Admit a session and serve it; raises Refusal before anything was promised."""
        terms = message.terms
        self._validate(message, stream.peer_id)
        with (
            self._hold_account(message) as account,
            self._hold_place(terms, stream.peer_id, account) as displaced,
        ):
            if displaced is not None:
                # It still holds the memory that this one needs.
                with trio.move_on_after(CLEANUP_S):
                    await displaced.ended.wait()
            prefix, keys = self._name_prefix(message)
            async with (
                self._hold_stage(terms, keys) as positions,
                self._hold_next(terms) as following,
            ):
                # Who replaces our next hop needs the outputs of what is not computed.
                outputs = self._budget.pages.find(keys[: positions // PAGE_TOKENS])
                found = len(outputs)
                if found * PAGE_TOKENS == positions:
                    # What is fetched goes behind what the stage has.
                    outputs += await self._take_pages(message, keys, len(outputs))
                cached = len(outputs) * PAGE_TOKENS
                self.pages_found += found
                offer = self._ports.get_offer()
                ahead = self._count_ahead(account, terms, cached)
                schedule = get_schedule(
                    terms,
                    cached=cached,
                    rolls_back=offer is not None and offer.rolls_back,
                )
                session = HopSession(
                    route=HopRoute(terms, schedule, stream.peer_id),
                    account=account,
                    prepaid_steps=ahead,
                    sign=self._ports.key.sign,
                    get_expiry=self._ports.get_expiry,
                    limits=self._limits,
                    now_us=compute_now_us(),
                    budget=self._budget,
                    prefix=prefix,
                    may_tell=lambda size: self._telling.take(
                        terms.client, size, compute_now_us()
                    ),
                )
                session.begin_with(outputs, keys)
                driver = HopDriver(
                    self._ports,
                    self._limits,
                    session,
                    stream,
                    following,
                    self._get_max_body(),
                    self._on_pool,
                    self.pace.note,
                )
                self._drivers[terms.session] = driver
                try:
                    await driver.run()
                finally:
                    del self._drivers[terms.session]
        await driver.close_streams()

    def _validate(self, message: Open, peer_id: bytes) -> None:
        terms = message.terms
        if self._is_stopping:
            raise Refusal(RefuseCode.BUSY, "the node shuts down")
        try:
            self._places.ask(peer_id, compute_now_us())
        except NoPlace as error:
            raise Refusal(RefuseCode.BUSY, str(error)) from error
        validate_open(
            message,
            self._ports.get_offer(),
            chain_id=self._ports.chain_id,
            node_key=self._ports.key.public_key,
        )
        if terms.session in self._drivers or terms.session in self._places:
            raise Refusal(RefuseCode.INVALID, "the session is open already")

    @contextmanager
    def _hold_place(
        self, terms: SessionTerms, peer_id: bytes, account: ChannelAccount
    ) -> Iterator[HopDriver | None]:
        """Hold a place, from the admission on; yields the session that gave way."""
        holder = Holder(peer_id, terms.client, terms.channel_id)
        displaced = None
        if self._places.may_displace(holder):
            displaced = self._dismiss_idle()
        try:
            self._places.enter(
                terms.session, holder, lambda: account.standing.paid_steps > 0
            )
        except NoPlace as error:
            raise Refusal(RefuseCode.BUSY, str(error)) from error
        try:
            yield displaced
        finally:
            self._places.leave(terms.session)

    def _dismiss_idle(self) -> HopDriver | None:
        """End the session that has waited longest for a step, if long enough."""
        idle = [
            (driver.session.deadline_us, session_id)
            for session_id, driver in self._drivers.items()
            if session_id in self._places
            and driver.session.phase is Phase.WAITING
            and driver.is_quiet
        ]
        if not idle:
            return None
        deadline_us, session_id = min(idle)
        spare_s = self._limits.idle_s - self._limits.crowded_idle_s
        if deadline_us - compute_now_us() > spare_s * 1e6:
            return None
        log.info("session %s gives way: it is idle", session_id.hex()[:8])
        self._places.leave(session_id)
        driver = self._drivers[session_id]
        driver.post(Expired())
        return driver

    @contextmanager
    def _hold_account(self, message: Open) -> Iterator[ChannelAccount]:
        """Yield the channel's account with all arrears paid."""
        terms, payee = message.terms, self._ports.payee
        channel = validate_channel(terms, payee.get_channel(terms.channel_id))
        account = self._accounts.get(terms.channel_id)
        if account is None:
            account = ChannelAccount.load(
                terms.channel_id, channel.standing, channel.paid_units
            )
        self._accounts[terms.channel_id] = account
        account.sessions += 1
        try:
            try:
                if message.arrears is not None:
                    paid = payee.accept_payment(terms.channel_id, message.arrears)
                    account.credit(paid)
            except RemoteError as error:
                raise Refusal(RefuseCode.INVALID, str(error)) from error
            validate_funds(terms, account, channel.remaining_units)
            yield account
        finally:
            account.sessions -= 1
            if account.sessions == 0:
                # Standing and book say everything that is needed to load it again.
                del self._accounts[terms.channel_id]

    def _count_ahead(
        self, account: ChannelAccount, terms: SessionTerms, cached: int
    ) -> int:
        """Return how many steps of a session are paid before they are computed."""
        is_crowded = account.sessions > self._limits.max_trusting
        if is_crowded or has_one_step(terms, cached):
            # Of one step, made again or not, no later one brings the payment.
            return self._limits.all_ahead
        return max(0, self._limits.trust_after - account.standing.paid_steps)

    def _name_prefix(self, message: Open) -> tuple[HopPrefix | None, tuple[bytes, ...]]:
        """Return what a session may share, and the keys of its prompt's full pages."""
        terms, offer = message.terms, self._ports.get_offer()
        if offer is None or not offer.shares:
            return None, ()
        prefix = HopPrefix(terms, message.scope)
        if not message.keeps:
            prefix.stop()
        # The prompt's last position is computed: its answer is wanted.
        most = (terms.prompt_tokens - 1) // PAGE_TOKENS
        return prefix, prefix.derive_keys(message.prefix[:most])

    async def _take_pages(
        self, message: Open, keys: Sequence[bytes], first: int
    ) -> list[bytes]:
        """Fetch pages that another hop has; returns their outputs."""
        source = message.source
        if source is None or first >= len(keys):
            return []
        grant = build_grant(
            message.terms, message.scope, message.prefix, source.giver, source.signature
        )
        return await self._taker.take(message.terms, grant, first, len(keys))

    @asynccontextmanager
    async def _hold_stage(
        self, terms: SessionTerms, keys: Sequence[bytes]
    ) -> AsyncIterator[int]:
        """Make room in the stage; the driver frees it, unless it never came to run.

        Yields:
            How many positions the stage has already.
        """
        worker = self._ports.worker
        try:
            cached = await worker.open(terms.session, terms.max_positions, keys)
        except Busy as error:
            raise Refusal(RefuseCode.BUSY, str(error)) from error
        except P2PChainError as error:
            raise Refusal(RefuseCode.NOT_SERVED, str(error)) from error
        try:
            yield cached
        except BaseException:
            with trio.CancelScope(
                shield=True, deadline=trio.current_time() + CLEANUP_S
            ):
                await worker.close(terms.session)
            raise

    @asynccontextmanager
    async def _hold_next(self, terms: SessionTerms) -> AsyncIterator[Stream | None]:
        """Open the stream to the next hop, before anything is promised."""
        if terms.next is None:
            yield None
            return
        try:
            with trio.fail_after(self._limits.dial_s):
                stream = await self._ports.dialer.open_stream(terms.next, PUSH_PROTOCOL)
        except (P2PChainError, trio.TooSlowError) as error:
            text = f"the next hop is out of reach: {error}"
            raise Refusal(RefuseCode.UNREACHABLE, text) from error
        try:
            yield stream
        except BaseException:
            stream.abort()
            raise

    def _on_pool(self, source: HopDriver) -> None:
        """Tell the channel's other sessions that wait for a payment."""
        channel_id = source.session.account.channel_id
        for driver in self._drivers.values():
            session = driver.session
            if driver is source or session.account.channel_id != channel_id:
                continue
            if session.phase is Phase.HELD:
                driver.post(PoolChanged())

    def _get_max_body(self) -> int:
        """Return the longest hidden states of a step, bytes.

        While no layers are ready the bound is that of the last ones: a neighbour in a
        session that was opened before does nothing wrong.
        """
        offer = self._ports.get_offer()
        if offer is not None:
            forms = [WireForm(offer.hidden_size, offer.dtype, each) for each in Codec]
            tokens = offer.max_step_tokens
            self._max_body = max(form.compute_size(tokens) for form in forms)
        return self._max_body

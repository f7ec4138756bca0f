"""
Drives one requester session: a route's streams, our own worker, and the reader.

    hop 0 stream --+
    hop n stream --+--> inbox --> RequesterMachine.handle --> effects
    our worker   --+

`RequesterSession.run` is shielded: a reader that goes away or a caller that is
cancelled turns into the event Cancelled, so the step under way is still paid and every
stage freed, within `close_s`; only then does the cancellation go on its way.
"""

import logging
from collections import deque
from itertools import zip_longest
from typing import assert_never

import trio

from inference.hop.driver import compute_now_us
from inference.hop.inbox import Heard, Inbox
from inference.hop.ports import Stream
from inference.protocol.errors import BadMessage, PaymentFailed, StepTimeout
from inference.protocol.messages import (
    HOP_PROTOCOL,
    Message,
    Open,
    PageSource,
    Pay,
    compute_open_message,
    decode_frame,
    encode_frame,
)
from inference.protocol.page_messages import build_grant, compute_grant_message
from inference.sampling.params import SamplingParams
from inference.session.events import (
    Blame,
    Cancelled,
    Effect,
    Embed,
    Emit,
    End,
    Event,
    Expired,
    FindHops,
    HopGone,
    HopsFound,
    LocalFailed,
    NoHops,
    OpenHop,
    PayHop,
    Received,
    Sample,
    SendTo,
)
from inference.session.life import Phase
from inference.session.plan import (
    SessionPlan,
    SessionSummary,
    SessionTimeouts,
    TokenEvent,
)
from inference.session.ports import RequesterPorts
from inference.session.purse import SessionPurse
from inference.session.reader import Reader, TakeToken
from inference.session.session import RequesterMachine
from inference.session.worker import begin_sample, embed
from primitives.errors import P2PChainError

log = logging.getLogger(__name__)

CLEANUP_S = 5.0
"""For our own worker to forget the session."""
LAST_WORDS_S = 1.0
"""For each hop to take the last messages of a session that is over already."""


class RequesterSession:
    """One answer, from prompt to settlement of the last step.

    Args:
        ports: What the node provides.
        plan: Route, prompt and bounds.
        sampling: How tokens are chosen; the requester worker reads it.
        timeouts: How long to wait for what.
    """

    def __init__(
        self,
        ports: RequesterPorts,
        plan: SessionPlan,
        sampling: SamplingParams,
        timeouts: SessionTimeouts | None = None,
    ) -> None:
        self.plan = plan
        self.summary: SessionSummary | None = None
        """Set when `run` is over, also when it raised."""
        self._ports = ports
        self._sampling = sampling
        self._timeouts = timeouts or SessionTimeouts()
        self._streams: dict[int, Stream] = {}
        self._purse = SessionPurse(ports.payer, plan.session_id)
        self._max_body = plan.wire.compute_size(plan.max_step_tokens)
        self._inbox: Inbox[Event, int] = Inbox()
        self._reader = Reader()
        self._openings: list[trio.CancelScope] = []
        self._driving = trio.CancelScope(shield=True)
        self._is_cancelled = False
        self._end: End | None = None
        self._machine: RequesterMachine
        self._nursery: trio.Nursery
        self._emit: TakeToken

    async def run(self, emit: TakeToken) -> SessionSummary:
        """Produce the answer and return what it took.

        Args:
            emit: Takes the tokens in order.  While it waits, at most
                `READER_TOKENS` more are computed.  When it raises, the session is
                closed in order and the exception goes on.

        Raises:
            SessionError: The answer is incomplete, by a hop's fault or loss.
            P2PChainError: The answer is incomplete, by our own worker or payer.
        """
        self._emit = emit
        self._machine = RequesterMachine(
            self.plan,
            self._timeouts,
            self._ports.signer.public_key,
            self._ports.signer.sign,
            compute_now_us(),
            can_recover=self._ports.finder is not None,
            speculation=self._sampling.speculation,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_cancellation)
            with self._driving:
                await self._drive()
            nursery.cancel_scope.cancel()
        if self._reader.error is not None:
            raise self._reader.error
        assert self.summary is not None
        if self.summary.finish_reason == "error" and self.summary.fault is not None:
            raise self.summary.fault
        return self.summary

    def cancel(self) -> None:
        """Ask for an orderly end: pay what was delivered, free every stage."""
        if self._is_cancelled:
            return
        self._is_cancelled = True
        self._driving.deadline = trio.current_time() + self._timeouts.close_s
        self._reader.cancel()
        self._inbox.post(Cancelled())

    async def _watch_cancellation(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.cancel()

    # The loop

    async def _drive(self) -> None:
        """Run the session; then let the reader take what is left, at its own pace."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reader.run, self._emit, self.cancel)
            try:
                await self._drive_route()
            finally:
                self._reader.close()
                with trio.move_on_after(CLEANUP_S, shield=True):
                    await self._clean_up()

    async def _drive_route(self) -> None:
        plan = self.plan
        try:
            await self._ports.worker.open(plan.session_id, self._sampling, plan.prompt)
        except P2PChainError as error:
            self._end = End("error", error)
            return
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._inbox.run_alarm)
            await self._do_all(self._machine.open())
            while self._machine.phase is not Phase.ENDED:
                await self._apply(await self._receive())
            self._inbox.close()
            for opening in self._openings:
                opening.cancel()
            with trio.move_on_after(self._timeouts.close_s):
                await self._close_streams()
            nursery.cancel_scope.cancel()

    async def _close_streams(self) -> None:
        """Let everything that was sent go out."""
        async with trio.open_nursery() as nursery:
            for stream in self._streams.values():
                nursery.start_soon(stream.close)

    async def _clean_up(self) -> None:
        for stream in self._streams.values():
            stream.abort()
        late = StepTimeout("the session was not closed in time")
        end = self._end or End("error", late)
        self.summary = self._purse.build_summary(self._machine, end, compute_now_us())
        for hop in self._machine.route.everyone:
            self._purse.forget(hop)
        try:
            await self._ports.worker.close(self.plan.session_id)
        except P2PChainError as error:
            log.info("session %s: %s", self._name, error)

    async def _receive(self) -> Event:
        item = await self._inbox.receive(self._machine.deadline_us / 1_000_000)
        if item is None:
            return Expired()
        return self._read(item) if isinstance(item, Heard) else item

    def _read(self, heard: Heard[int]) -> Event:
        """Return the event that a hop's frame is, or its stream's end."""
        hop = heard.source.key
        if heard.error is not None:
            return HopGone(hop, str(heard.error))
        try:
            return Received(hop, *decode_frame(heard.frame, self._max_body))
        except BadMessage as error:
            self._inbox.forget(heard.source.stream)
            return HopGone(hop, str(error), is_fault=True)

    async def _apply(self, event: Event) -> None:
        """Do what the state machine asks for, until it asks for nothing more."""
        pending: deque[Event] = deque([event])
        while pending:
            effects = self._machine.handle(pending.popleft(), compute_now_us())
            pending.extend(await self._do_all(effects))

    async def _do_all(self, effects: list[Effect]) -> list[Event]:
        events = []
        for effect, following in zip_longest(effects, effects[1:]):
            event = await self._do(effect, following)
            if event is not None:
                events.append(event)
        return events

    async def _do(self, effect: Effect, following: Effect | None) -> Event | None:
        match effect:
            case SendTo(hop, message, body):
                # A step is of no use without its payment: they leave together.
                is_joined = isinstance(following, PayHop) and following.hop == hop
                return await self._send(hop, message, body, is_urgent=not is_joined)
            case PayHop():
                return await self._pay(effect)
            case Embed():
                self._nursery.start_soon(self._embed, effect)
            case Sample():
                return self._sample(effect)
            case Emit(token):
                await self._show(token)
            case OpenHop():
                self._nursery.start_soon(self._open_hop, effect)
            case FindHops():
                self._nursery.start_soon(self._find_hops, effect)
            case Blame(peer_id, text):
                log.info("session %s: %s", self._name, text)
                self._ports.on_fault(peer_id, text)
            case End():
                self._end = effect
            case _:
                assert_never(effect)
        return None

    # Hops

    async def _open_hop(self, effect: OpenHop) -> None:
        """Reach a hop and send it the signed terms, with arrears if we owe any."""
        hop = effect.hop
        with trio.CancelScope() as opening:
            self._openings.append(opening)
            try:
                stream = await self._ports.dialer.open_stream(
                    effect.terms.provider, HOP_PROTOCOL
                )
                try:
                    await stream.send(encode_frame(self._build_open(effect)))
                except BaseException:
                    stream.abort()
                    raise
            except PaymentFailed as error:
                self._inbox.post(LocalFailed(error))
            except P2PChainError as error:
                self._inbox.post(HopGone(hop, str(error)))
            else:
                # Only now can anything else be sent: Open is the first message.
                self._streams[hop] = stream
                self._inbox.listen(hop, stream)

    async def _find_hops(self, effect: FindHops) -> None:
        assert self._ports.finder is not None
        event: Event
        with trio.CancelScope() as searching:
            self._openings.append(searching)
            try:
                event = HopsFound(effect.search, await self._ports.finder.find(effect))
            except P2PChainError as error:
                event = NoHops(effect.search, str(error))
            self._inbox.post(event)

    def _build_open(self, effect: OpenHop) -> Open:
        hop = self._machine.route.everyone[effect.hop]
        arrears = self._purse.pay_arrears(hop)
        signature = self._ports.signer.sign(compute_open_message(effect.terms))
        return Open(
            effect.terms,
            arrears,
            signature,
            effect.prefix,
            effect.scope,
            self._build_source(effect),
            effect.keeps,
        )

    def _build_source(self, effect: OpenHop) -> PageSource | None:
        """Let a hop fetch what another one has kept for us."""
        giver = effect.plan.source
        if giver is None or not effect.prefix:
            return None
        grant = build_grant(effect.terms, effect.scope, effect.prefix, giver)
        signature = self._ports.signer.sign(compute_grant_message(grant))
        return PageSource(giver, signature)

    async def _send(
        self, hop: int, message: Message, body: bytes, *, is_urgent: bool = True
    ) -> Event | None:
        stream = self._streams.get(hop)
        if stream is None:
            return None
        frame = encode_frame(message, body)
        try:
            if stream.send_now(frame, is_urgent=is_urgent):
                return None
            is_over = self._machine.phase is Phase.ENDED
            wait_s = LAST_WORDS_S if is_over else self._timeouts.send_s
            with trio.CancelScope(deadline=trio.current_time() + wait_s) as sending:
                await stream.send(frame)
        except P2PChainError as error:
            return HopGone(hop, str(error))
        return HopGone(hop, "it does not read") if sending.cancelled_caught else None

    async def _pay(self, effect: PayHop) -> Event | None:
        try:
            hop = self._machine.route.everyone[effect.hop]
            payment = self._purse.pay(hop, effect.units)
        except P2PChainError as error:
            return LocalFailed(error)
        pay = Pay(self.plan.session_id, effect.step, effect.units, payment)
        return await self._send(effect.hop, pay, b"")

    # Our own worker, and the reader

    async def _embed(self, effect: Embed) -> None:
        event = await embed(self._ports.worker, self.plan.session_id, effect)
        self._inbox.post(event)

    def _sample(self, effect: Sample) -> Event | None:
        worker, session_id = self._ports.worker, self.plan.session_id
        return begin_sample(worker, session_id, effect, self._inbox.post)

    async def _show(self, token: TokenEvent) -> None:
        try:
            await self._reader.show(token)
        except trio.BrokenResourceError:
            log.debug("session %s: the reader is gone", self._name)

    @property
    def _name(self) -> str:
        return self.plan.session_id.hex()[:8]

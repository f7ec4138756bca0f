"""
Drives one requester session: a route's streams, our own worker, and the reader.

    hop 0 stream --+
    hop n stream --+--> inbox --> RequesterMachine.handle --> effects
    worker tasks --+

`RequesterSession.run` is shielded: a reader that goes away or a caller that is
cancelled turns into the event Cancelled, so the step under way is still paid and every
stage freed, within `close_s`; only then does the cancellation go on its way.
"""

import logging
from collections import deque
from typing import assert_never

import trio

from inference.hop.driver import compute_now_us
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
from inference.session.worker import embed, sample
from primitives.errors import P2PChainError

log = logging.getLogger(__name__)

INBOX_EVENTS = 16
"""Each hop has at most a receipt and an answer to say per step."""
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
        self._sender, self._receiver = trio.open_memory_channel[Event](INBOX_EVENTS)
        self._reader = Reader()
        self._waiting = trio.CancelScope()
        self._openings: list[trio.CancelScope] = []
        self._driving = trio.CancelScope(shield=True)
        self._is_cancelled = False
        self._is_told = False
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
        self._waiting.cancel()

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
            await self._do_all(self._machine.open())
            while self._machine.phase is not Phase.ENDED:
                await self._apply(await self._receive())
            self._receiver.close()
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
        if not self._must_tell():
            try:
                return self._receiver.receive_nowait()
            except trio.WouldBlock:
                deadline = self._machine.deadline_us / 1_000_000
                with trio.CancelScope(deadline=deadline) as self._waiting:
                    return await self._receiver.receive()
        if self._must_tell():
            self._is_told = True
            return Cancelled()
        return Expired()

    def _must_tell(self) -> bool:
        """Tell whether the machine does not know yet that the reader has left."""
        return self._is_cancelled and not self._is_told

    async def _apply(self, event: Event) -> None:
        """Do what the state machine asks for, until it asks for nothing more."""
        pending: deque[Event] = deque([event])
        while pending:
            effects = self._machine.handle(pending.popleft(), compute_now_us())
            pending.extend(await self._do_all(effects))

    async def _do_all(self, effects: list[Effect]) -> list[Event]:
        events = [await self._do(effect) for effect in effects]
        return [event for event in events if event is not None]

    async def _do(self, effect: Effect) -> Event | None:
        match effect:
            case SendTo(hop, message, body):
                return await self._send(hop, message, body)
            case PayHop():
                return await self._pay(effect)
            case Embed():
                self._nursery.start_soon(self._embed, effect)
            case Sample():
                self._nursery.start_soon(self._sample, effect)
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

    async def _post(self, event: Event) -> None:
        try:
            await self._sender.send(event)
        except trio.BrokenResourceError:
            return  # The session is over; nobody reads any more.

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
                await self._post(LocalFailed(error))
            except P2PChainError as error:
                await self._post(HopGone(hop, str(error)))
            else:
                # Only now can anything else be sent: Open is the first message.
                self._streams[hop] = stream
                self._nursery.start_soon(self._pump, hop, stream)

    async def _find_hops(self, effect: FindHops) -> None:
        assert self._ports.finder is not None
        event: Event
        with trio.CancelScope() as searching:
            self._openings.append(searching)
            try:
                event = HopsFound(effect.search, await self._ports.finder.find(effect))
            except P2PChainError as error:
                event = NoHops(effect.search, str(error))
            await self._post(event)

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

    async def _send(self, hop: int, message: Message, body: bytes) -> Event | None:
        stream = self._streams.get(hop)
        if stream is None:
            return None
        frame = encode_frame(message, body)
        is_over = self._machine.phase is Phase.ENDED
        wait_s = LAST_WORDS_S if is_over else self._timeouts.send_s
        deadline = trio.current_time() + wait_s
        try:
            with trio.CancelScope(deadline=deadline) as sending:
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

    async def _pump(self, hop: int, stream: Stream) -> None:
        """Turn a hop's frames into events until its stream ends."""
        try:
            while True:
                message, body = decode_frame(await stream.receive(), self._max_body)
                await self._post(Received(hop, message, body))
        except BadMessage as error:
            await self._post(HopGone(hop, str(error), is_fault=True))
        except P2PChainError as error:
            await self._post(HopGone(hop, str(error)))

    # Our own worker, and the reader

    async def _embed(self, effect: Embed) -> None:
        await self._post(await embed(self._ports.worker, self.plan.session_id, effect))

    async def _sample(self, effect: Sample) -> None:
        await self._post(await sample(self._ports.worker, self.plan.session_id, effect))

    async def _show(self, token: TokenEvent) -> None:
        try:
            await self._reader.show(token)
        except trio.BrokenResourceError:
            log.debug("session %s: the reader is gone", self._name)

    @property
    def _name(self) -> str:
        return self.plan.session_id.hex()[:8]

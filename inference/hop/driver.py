"""
Drives one `HopSession`: frames in, effects out.

    requester's stream --+
    previous hop's     --+--> inbox --> HopSession.handle --> effects
    next hop's         --+      ^
    stage ----------------------+

The loop below is the only task that touches the state machine.  A step passes through
it twice, when its data has come and when it is computed, and each time what follows is
on its way before the loop waits again: to the stage, to the next hop.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import assert_never

import trio

from inference.errors import WorkerError
from inference.hop.arrivals import read_message
from inference.hop.events import (
    AbortArrived,
    Blame,
    Compute,
    Computed,
    ComputeFailed,
    Effect,
    End,
    Event,
    Expired,
    GivingUp,
    KeepPages,
    KeepReceipt,
    LeavingSoon,
    Lost,
    PayArrived,
    PoolChanged,
    Reach,
    Reached,
    Release,
    SaveStanding,
    Send,
    Side,
    Violated,
)
from inference.hop.hop import HopSession
from inference.hop.inbox import Heard, Inbox
from inference.hop.life import Phase
from inference.hop.ports import HopLimits, HopPorts, Stream
from inference.protocol.codes import AbortCode
from inference.protocol.errors import BadMessage
from inference.protocol.messages import (
    PUSH_PROTOCOL,
    Accept,
    Message,
    Pay,
    decode_frame,
    encode_frame,
)
from primitives.errors import P2PChainError, RemoteError

log = logging.getLogger(__name__)

LAST_PAYMENT_S = 2.0
"""For a payment on its way when a session ends; the requester closes its stream when
it hears of the end, so nearly always that comes sooner."""
CLEANUP_S = 5.0
"""For the last words of a session whose handler is cancelled."""


def compute_now_us() -> int:
    """Return trio's clock in microseconds; it is virtual in tests."""
    return int(trio.current_time() * 1_000_000)


class HopDriver:
    """One session's streams, stage and state machine.

    Args:
        ports: What the node provides.
        limits: How long to wait for a neighbour to take a message.
        session: The state machine.
        requester: Stream that the requester opened.
        following: Stream to the next hop; None at the last one.
        max_body: Longest hidden states of a step, bytes.
        on_pool: Called when a payment has reached the channel's account.
        on_computed: Told how many tokens a step had, and how many microseconds it took.
    """

    def __init__(
        self,
        ports: HopPorts,
        limits: HopLimits,
        session: HopSession,
        requester: Stream,
        following: Stream | None,
        max_body: int,
        on_pool: Callable[["HopDriver"], None],
        on_computed: Callable[[int, int], None] = lambda tokens, spent_us: None,
    ) -> None:
        self.session = session
        self.ended = trio.Event()
        """Set when nothing of the session is held any more."""
        self._ports = ports
        self._limits = limits
        self._max_body = max_body
        self._on_pool = on_pool
        self._on_computed = on_computed
        self._streams: dict[Side, Stream] = {Side.REQUESTER: requester}
        if following is not None:
            self._streams[Side.NEXT] = following
        self._inbox: Inbox[Event, Side] = Inbox()
        self._give_up: Callable[[], None] = _do_nothing
        """Gives the computation under way up."""
        self._is_released = False
        self._must_leave = False
        self._looks_again = False
        """A look at the pool waits to be taken."""
        self._has_left = False
        """The requester has said its last word."""
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve the session to its end."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._inbox.run_alarm)
                for side, stream in self._streams.items():
                    self._inbox.listen(side, stream)
                await self._accept_session()
                while self.session.phase is not Phase.ENDED:
                    await self._apply(await self._receive())
                await self._hear_last_payments()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(
                shield=True, deadline=trio.current_time() + CLEANUP_S
            ):
                await self._apply(GivingUp())
                self._inbox.close()
                await self._release()
            self.ended.set()

    async def _accept_session(self) -> None:
        session = self.session
        schedule = session.schedule
        accept = Accept(
            session.terms.session,
            session.prepaid_steps,
            cached=schedule.cached,
            rolls_back=schedule.rolls_back,
        )
        lost = await self._send(Side.REQUESTER, accept, b"")
        if lost is not None:
            await self._apply(lost)

    async def close_streams(self) -> None:
        """End all streams in order; what was sent goes out first."""
        async with trio.open_nursery() as nursery:
            for stream in self._streams.values():
                nursery.start_soon(stream.close)

    async def hear_previous(self, stream: Stream, first: bytes) -> bool:
        """Take a stream of the previous hop in the place of an older one of it.

        Args:
            stream: The stream.
            first: A frame that was received already.

        Returns:
            True when it or the session is over; False, at once, when it is another
            peer's.
        """
        if stream.peer_id != self.session.terms.previous:
            return False
        self._drop(Side.PREVIOUS)
        self._streams[Side.PREVIOUS] = stream
        await self._inbox.listen(Side.PREVIOUS, stream, first).gone.wait()
        return True

    def _drop(self, side: Side) -> None:
        """Let go of a neighbour; its stream's end is no news any more."""
        stream = self._streams.pop(side, None)
        if stream is not None:
            self._inbox.forget(stream)
            stream.abort()

    def leave(self) -> None:
        """Tell the requester that it should take another hop."""
        self._must_leave = True
        self.post(PoolChanged())

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits to be heard."""
        return self._inbox.is_empty

    def post(self, event: PoolChanged | GivingUp | Expired) -> None:
        """Hand in an event from outside; one look at the pool stands for many."""
        if isinstance(event, PoolChanged):
            if self._looks_again:
                return
            self._looks_again = True
        self._inbox.post(event)

    # In

    async def _receive(self) -> Event:
        item = await self._inbox.receive(self.session.deadline_us / 1_000_000)
        if item is None:
            return Expired()
        if isinstance(item, PoolChanged):
            self._looks_again = False
        return self._read(item) if isinstance(item, Heard) else item

    def _read(self, heard: Heard[Side]) -> Event:
        """Return the event that a neighbour's frame is, or its stream's end."""
        side, stream = heard.source.key, heard.source.stream
        if self._streams.get(side) is not stream:
            # Of a neighbour that we have let go of; a look at the pool harms nobody.
            return PoolChanged()
        if heard.error is not None:
            event: Event | Pay = Lost(side)
        else:
            try:
                message, body = decode_frame(heard.frame, self._max_body)
            except BadMessage as error:
                self._inbox.forget(stream)
                event = Violated(side, AbortCode.PROTOCOL, str(error))
            else:
                session_id = self.session.terms.session
                event = read_message(side, message, body, session_id)
        if side is Side.REQUESTER and isinstance(event, Lost | AbortArrived):
            self._has_left = True
        return self._take_payments(event) if isinstance(event, Pay) else event

    def _take_payments(self, message: Pay) -> Event:
        """Put the message's payment into the book and the pool."""
        account, payee = self.session.account, self._ports.payee
        try:
            account.credit(payee.accept_payment(account.channel_id, message.payment))
        except RemoteError as error:
            # Streams of two sessions may overtake each other; then the later payment
            # has paid for both (it is in the pool), and the earlier one brings nothing.
            if account.sessions == 1 and account.free < message.units:
                return Violated(Side.REQUESTER, AbortCode.BAD_PAYMENT, str(error))
            log.debug("session %s: overtaken payment: %s", self._name, error)
        except P2PChainError as error:
            # Our own book: the channel may have been closed on chain meanwhile.
            return GivingUp(AbortCode.INTERNAL, str(error))
        return PayArrived(message.units)

    async def _hear_last_payments(self) -> None:
        """Take the payments that crossed our Abort.

        What they pay would be asked for as arrears, and paid twice.
        """
        account = self.session.account
        if not account.arrears or self._has_left:
            return
        deadline = trio.current_time() + LAST_PAYMENT_S
        while account.arrears and not self._has_left:
            item = await self._inbox.receive(deadline)
            if item is None:
                break
            if isinstance(item, Heard) and item.source.key is Side.REQUESTER:
                self._read(item)
                account.pay_arrears()
        self._ports.payee.save_standing(account.channel_id, account.standing)

    # Out

    async def _apply(self, event: Event) -> None:
        """Do what the state machine asks for, until it asks for nothing more."""
        await self._handle(event)
        if self._must_leave:
            self._must_leave = False
            await self._handle(LeavingSoon())
        if isinstance(event, PayArrived) or self.session.phase is Phase.ENDED:
            self._on_pool(self)

    async def _handle(self, event: Event) -> None:
        pending: deque[Event] = deque([event])
        while pending:
            for effect in self.session.handle(pending.popleft(), compute_now_us()):
                follow_up = await self._do(effect)
                if follow_up is not None:
                    pending.append(follow_up)

    async def _do(self, effect: Effect) -> Event | None:
        match effect:
            case Send(side, message, body):
                return await self._send(side, message, body)
            case Compute():
                return self._compute(effect)
            case Reach(attempt, peer_id):
                self._drop(Side.PREVIOUS)
                self._drop(Side.NEXT)
                if peer_id is not None:
                    self._nursery.start_soon(self._reach, attempt, peer_id)
            case SaveStanding():
                account = self.session.account
                self._ports.payee.save_standing(account.channel_id, account.standing)
            case KeepReceipt(receipt):
                self._ports.publish(receipt)
            case KeepPages(first, keys):
                session_id = self.session.terms.session
                self._ports.worker.keep(session_id, first, keys)
            case Release():
                await self._release()
            case Blame(peer_id, text):
                log.info("session %s: %s", self._name, text)
                self._ports.on_fault(peer_id, text)
            case End(account=closed):
                log.info("session %s ended with code %d", self._name, closed.code)
                self._ports.payee.on_session_closed(closed)
            case _:
                assert_never(effect)
        return None

    async def _send(self, side: Side, message: Message, body: bytes) -> Event | None:
        stream = self._streams.get(side)
        if stream is None:
            return None
        frame = encode_frame(message, body)
        try:
            if stream.send_now(frame, is_urgent=True):
                return None
            deadline = trio.current_time() + self._limits.send_s
            with trio.CancelScope(deadline=deadline) as sending:
                await stream.send(frame)
        except P2PChainError:
            return Lost(side)
        return Lost(side) if sending.cancelled_caught else None

    async def _reach(self, attempt: int, peer_id: bytes) -> None:
        """Open the stream to a new next hop."""
        stream = None
        try:
            with trio.move_on_after(self._limits.dial_s):
                stream = await self._ports.dialer.open_stream(peer_id, PUSH_PROTOCOL)
        except P2PChainError as error:
            log.info("session %s: the next hop: %s", self._name, error)
        if stream is not None:
            if self.session.terms.attempt != attempt:
                stream.abort()
                return
            self._streams[Side.NEXT] = stream
            self._inbox.listen(Side.NEXT, stream)
        self._inbox.post(Reached(attempt, stream is not None))

    def _compute(self, effect: Compute) -> Event | None:
        """Let the stage compute; what comes of it is posted."""
        started_us = compute_now_us()

        def on_done(answer: bytes | P2PChainError) -> None:
            if isinstance(answer, P2PChainError):
                self._inbox.post(_build_failure(answer))
                return
            spent_us = compute_now_us() - started_us
            self._on_computed(effect.tokens, spent_us)
            self._inbox.post(Computed(answer, spent_us))

        try:
            self._give_up = self._ports.worker.begin_forward(
                self.session.terms.session,
                effect.position,
                effect.body,
                effect.tokens,
                on_done,
            )
        except P2PChainError as error:
            return _build_failure(error)
        return None

    async def _release(self) -> None:
        if self._is_released:
            return
        self._is_released = True
        self._give_up()
        try:
            await self._ports.worker.close(self.session.terms.session)
        except P2PChainError as error:
            # A lost worker has lost the session's memory as well.
            log.info("session %s: %s", self._name, error)

    @property
    def _name(self) -> str:
        return self.session.terms.session.hex()[:8]


def _build_failure(error: P2PChainError) -> ComputeFailed:
    is_lost = isinstance(error, WorkerError)
    code = AbortCode.STAGE_LOST if is_lost else AbortCode.INTERNAL
    return ComputeFailed(code, str(error))


def _do_nothing() -> None:
    pass

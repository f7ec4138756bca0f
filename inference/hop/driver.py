"""
Drives one `HopSession`: frames in, effects out.

    requester's stream --+
    previous hop's     --+--> inbox --> HopSession.handle --> effects
    next hop's         --+      ^
    stage (own task)   ---------+

The loop below is the only task that touches the state machine.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import assert_never

import trio

from inference.errors import WorkerError
from inference.hop.arrivals import Arrival, read_arrival
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

INBOX_EVENTS = 4
"""One step is here at a time; the rest of a neighbour's frames wait in its stream."""
OVERDUE_S = 5.0
"""What waits in the inbox is heard before a deadline strikes, but not for ever, or a
neighbour could hold a session open with idle talk."""
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
        self._ports = ports
        self._limits = limits
        self._max_body = max_body
        self._on_pool = on_pool
        self._on_computed = on_computed
        self._streams: dict[Side, Stream] = {Side.REQUESTER: requester}
        if following is not None:
            self._streams[Side.NEXT] = following
        self._sender, self._receiver = trio.open_memory_channel[Event | Arrival](
            INBOX_EVENTS
        )
        self._computing = trio.CancelScope()
        self._is_released = False
        self._must_leave = False
        self._has_left = False
        """The requester has said its last word."""
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve the session to its end."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for side, stream in list(self._streams.items()):
                    nursery.start_soon(self.pump, stream, side)
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
                self._receiver.close()
                await self._release()

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

    def attach_previous(self, stream: Stream) -> bool:
        """Take a stream of the previous hop in the place of an older one of it.

        Returns:
            False when it is another peer's.
        """
        if stream.peer_id != self.session.terms.previous:
            return False
        self._drop(Side.PREVIOUS)
        self._streams[Side.PREVIOUS] = stream
        return True

    def _drop(self, side: Side) -> None:
        """Let go of a neighbour; its stream's end is no news any more."""
        stream = self._streams.pop(side, None)
        if stream is not None:
            stream.abort()

    def leave(self) -> None:
        """Tell the requester that it should take another hop."""
        self._must_leave = True
        self.post(PoolChanged())

    @property
    def is_quiet(self) -> bool:
        """Whether what is posted now is heard next."""
        return not self._receiver.statistics().current_buffer_used

    def post(self, event: PoolChanged | GivingUp | Expired) -> None:
        """Hand in an event from outside; it may be dropped when the inbox is full.

        A full inbox means that events are being handled, and each of them looks at
        the pool again.
        """
        try:
            self._sender.send_nowait(event)
        except (trio.WouldBlock, trio.BrokenResourceError):
            log.debug("inbox of session %s is full", self._name)

    # In

    async def pump(
        self, stream: Stream, side: Side, first: bytes | None = None
    ) -> None:
        """Turn a stream's frames into arrivals until it ends.

        Args:
            stream: Whose frames.
            side: Who is at its other end.
            first: A frame that was received already.
        """
        try:
            frame = first
            while True:
                if frame is None:
                    frame = await stream.receive()
                message, body = decode_frame(frame, self._max_body)
                await self._post(Arrival(side, stream, message, body))
                frame = None
        except BadMessage as error:
            wrong = Violated(side, AbortCode.PROTOCOL, str(error))
            await self._post(Arrival(side, stream, wrong))
        except P2PChainError:
            await self._post(Arrival(side, stream, Lost(side)))

    async def _post(self, item: Event | Arrival) -> None:
        try:
            await self._sender.send(item)
        except trio.BrokenResourceError:
            return  # The session is over; nobody reads any more.

    async def _receive(self) -> Event:
        deadline = self.session.deadline_us / 1_000_000
        if trio.current_time() > deadline + OVERDUE_S:
            return Expired()
        try:
            item = self._receiver.receive_nowait()
        except trio.WouldBlock:
            with trio.CancelScope(deadline=deadline) as waiting:
                item = await self._receiver.receive()
            if waiting.cancelled_caught:
                return Expired()
        return self._build_event(item) if isinstance(item, Arrival) else item

    def _build_event(self, arrival: Arrival) -> Event:
        if self._streams.get(arrival.side) is not arrival.stream:
            # Of a neighbour that we have let go of; a look at the pool harms nobody.
            return PoolChanged()
        event = read_arrival(arrival, self.session.terms.session)
        if isinstance(event, Lost | AbortArrived) and event.side is Side.REQUESTER:
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
        requester = self._streams[Side.REQUESTER]
        with trio.move_on_after(LAST_PAYMENT_S):
            while account.arrears and not self._has_left:
                item = await self._receiver.receive()
                if isinstance(item, Arrival) and item.stream is requester:
                    self._build_event(item)
                    account.pay_arrears()
        self._ports.payee.save_standing(account.channel_id, account.standing)

    # Out

    async def _apply(self, event: Event) -> None:
        """Do what the state machine asks for, until it asks for nothing more."""
        # Another session's payment may have come while the inbox was full.
        pending: deque[Event] = deque([event, PoolChanged()])
        if self._must_leave:
            self._must_leave = False
            pending.append(LeavingSoon())
        while pending:
            for effect in self.session.handle(pending.popleft(), compute_now_us()):
                follow_up = await self._do(effect)
                if follow_up is not None:
                    pending.append(follow_up)
        if isinstance(event, PayArrived) or self.session.phase is Phase.ENDED:
            self._on_pool(self)

    async def _do(self, effect: Effect) -> Event | None:
        match effect:
            case Send(side, message, body):
                return await self._send(side, message, body)
            case Compute():
                self._nursery.start_soon(self._compute, effect)
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
        deadline = trio.current_time() + self._limits.send_s
        try:
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
            self._nursery.start_soon(self.pump, stream, Side.NEXT)
        await self._post(Reached(attempt, stream is not None))

    async def _compute(self, effect: Compute) -> None:
        session_id = self.session.terms.session
        started_us = compute_now_us()
        event: Event
        with trio.CancelScope() as self._computing:
            try:
                body = await self._ports.worker.forward(
                    session_id, effect.position, effect.body, effect.tokens
                )
                spent_us = compute_now_us() - started_us
                self._on_computed(effect.tokens, spent_us)
                event = Computed(body, spent_us)
            except WorkerError as error:
                event = ComputeFailed(AbortCode.STAGE_LOST, str(error))
            except P2PChainError as error:
                event = ComputeFailed(AbortCode.INTERNAL, str(error))
            await self._post(event)

    async def _release(self) -> None:
        if self._is_released:
            return
        self._is_released = True
        self._computing.cancel()
        try:
            await self._ports.worker.close(self.session.terms.session)
        except P2PChainError as error:
            # A lost worker has lost the session's memory as well.
            log.info("session %s: %s", self._name, error)

    @property
    def _name(self) -> str:
        return self.session.terms.session.hex()[:8]

"""
A small real world for sessions: a requester, some hops, streams between them.

Everything is real but three things: streams are queues in memory, a stage is an affine
map in numpy instead of a worker process, and the chain is a table of channels.  The
books of claims are the wallet's own.  Villains are hops or clients that override one
method.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import numpy as np
import trio
from trio.testing import MockClock

from chain.records.channel import Channel, ChannelStatus, Payment
from chain.records.proof import Receipt
from inference.device.memory import PAGE_TOKENS
from inference.errors import BadAnswer, Busy, UnknownSession, WorkerLost
from inference.hop.channel_account import EMPTY_STANDING, Standing
from inference.hop.ports import HopLimits, HopOffer, HopPorts, PayeeChannel
from inference.hop.service import HopService
from inference.protocol.account import SessionAccount
from inference.protocol.activations import Dtype
from inference.protocol.codes import RefuseCode
from inference.protocol.errors import HopRefused
from inference.protocol.messages import (
    HOP_PROTOCOL,
    PUSH_PROTOCOL,
    Message,
    decode_frame,
    encode_frame,
)
from inference.protocol.page_messages import PAGES_PROTOCOL
from inference.sampling.params import Choice, SampledToken, SamplingParams
from inference.sampling.speculation import Speculation
from inference.session.driver import RequesterSession
from inference.session.events import FindHops
from inference.session.plan import HopPlan, SessionPlan, SessionTimeouts, TokenEvent
from inference.session.ports import RequesterPorts
from inference.session.shared_payer import SharedPayer
from primitives.errors import MissingError, P2PChainError
from primitives.hashing import compute_hash
from primitives.keys import SecretKey
from primitives.kv import MemoryStore
from wallet.book import PayeeBook, PayerBook
from wallet.payee import PayeeChannel as BookChannel
from wallet.payer import PayerChannel

HIDDEN = 16
LAYERS_PER_HOP = 2
VOCABULARY = 97
CHAIN_ID = compute_hash("test", b"chain")
PROFILE = compute_hash("test", b"profile")
UNIT_PRICE = 5
INPUT_PRICE = 3
OUTPUT_PRICE = 20
DEPOSIT = 10_000_000
DECODE_UNITS = -(-LAYERS_PER_HOP * OUTPUT_PRICE // UNIT_PRICE)


def compute_prefill_units(tokens: int) -> int:
    """Return what a prefill step of `tokens` tokens costs."""
    price = max(tokens * INPUT_PRICE, OUTPUT_PRICE)
    return -(-LAYERS_PER_HOP * price // UNIT_PRICE)


def build_key(name: str) -> SecretKey:
    """Return the key that belongs to a name."""
    return SecretKey(compute_hash("test", name.encode()))


class StreamOver(MissingError):
    """The stream of this test has ended."""


Tamper = Callable[[Message, bytes], tuple[Message, bytes] | None]
"""What a villain does to a frame that it sends; None drops it."""


def take_no_time() -> float:
    """Return how long a send takes on a line without delay."""
    return 0.0


class MemoryStream:
    """One end of a stream; `delay_s` says how long each send takes."""

    def __init__(self, peer_id: bytes, delay_s: Callable[[], float]) -> None:
        self.peer_id = peer_id
        self.other: MemoryStream
        self.tamper: Tamper | None = None
        self.is_for_pages = False
        """Frames of pages are another union of messages."""
        self.spoil: Callable[[bytes], bytes] | None = None
        """What a villain does to them."""
        self.is_over = False
        self._ended_here = False
        self._delay_s = delay_s
        self._inbox: deque[bytes] = deque()
        self._changed = trio.Event()
        self._watcher: Callable[[], None] | None = None

    async def send(self, message: bytes) -> None:
        await trio.sleep(self._delay_s())
        self._put(message)

    def send_now(self, message: bytes, *, is_urgent: bool = False) -> bool:
        if self._delay_s is not take_no_time:
            return False
        self._put(message)
        return True

    def _put(self, message: bytes) -> None:
        if self.is_over:
            raise StreamOver("nobody is there")
        if self.tamper is not None and not self.is_for_pages:
            tampered = self.tamper(*decode_frame(message))
            if tampered is None:
                return
            message = encode_frame(*tampered)
        if self.is_for_pages and self.spoil is not None:
            message = self.spoil(message)
        self.other._inbox.append(message)
        self.other._wake()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while (message := self.receive_now()) is None:
            await self._changed.wait()
        return message

    def receive_now(self) -> bytes | None:
        if self._inbox and not self._ended_here:
            return self._inbox.popleft()
        if self.is_over:
            raise StreamOver("the stream has ended")
        return None

    def watch(self, watcher: Callable[[], None] | None) -> None:
        self._watcher = watcher
        if watcher is not None and (self._inbox or self.is_over):
            watcher()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.abort()

    def abort(self) -> None:
        self._ended_here = True
        for end in (self, self.other):
            end.is_over = True
            end._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        if self._watcher is not None:
            self._watcher()


def open_pair(
    left: bytes, right: bytes, delay_s: Callable[[], float] = take_no_time
) -> tuple[MemoryStream, MemoryStream]:
    """Return the ends at `left` and at `right`."""
    at_left, at_right = MemoryStream(right, delay_s), MemoryStream(left, delay_s)
    at_left.other, at_right.other = at_right, at_left
    return at_left, at_right


class AffineStage:
    """Layers that a test can compute in its head: x -> a x + b, with a counter."""

    def __init__(self, index: int) -> None:
        self.scale = np.float32(1.0 + 0.25 * index)
        self.shift = np.float32(0.5 - 0.125 * index)
        self.sessions: dict[bytes, int] = {}
        self.max_sessions = 16
        self.step_s = 0.001
        self.forwards = 0
        self.is_dead = False

    async def open(
        self, session_id: bytes, max_positions: int, keys: Sequence[bytes] = ()
    ) -> int:
        self._raise_if_dead()
        if len(self.sessions) >= self.max_sessions:
            raise Busy("no room")
        self.sessions[session_id] = 0
        return 0

    page_bytes = 0

    def keep(self, session_id: bytes, first: int, keys: Sequence[bytes]) -> None:
        """Nothing is kept."""

    async def read_pages(self, keys: Sequence[bytes]) -> bytes:
        return b""

    async def write_pages(self, session_id: bytes, content: bytes, pages: int) -> int:
        raise BadAnswer("no pages here")

    def begin_forward(
        self,
        session_id: bytes,
        position: int,
        hidden: bytes,
        tokens: int,
        on_done: Callable[[bytes | P2PChainError], None],
    ) -> Callable[[], None]:
        """Run `forward` beside the caller, as a process does."""
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                try:
                    answer = await self.forward(session_id, position, hidden, tokens)
                except P2PChainError as error:
                    on_done(error)
                else:
                    on_done(answer)

        trio.lowlevel.spawn_system_task(run)
        return scope.cancel

    async def forward(
        self, session_id: bytes, position: int, hidden: bytes, tokens: int
    ) -> bytes:
        self._raise_if_dead()
        if position > self.sessions.get(session_id, -1):
            raise UnknownSession(f"position {position}")
        await trio.sleep(self.step_s)
        self._raise_if_dead()
        self.forwards += 1
        self.sessions[session_id] = position + tokens
        return self.compute(np.frombuffer(hidden, np.float32)).tobytes()

    def compute(self, hidden: np.ndarray) -> np.ndarray:
        return hidden * self.scale + self.shift

    async def close(self, session_id: bytes) -> None:
        self.sessions.pop(session_id, None)

    def _raise_if_dead(self) -> None:
        if self.is_dead:
            raise WorkerLost("the stage is dead")


class RunningStage(AffineStage):
    """Layers with a memory: what comes out depends on everything that came in.

    So a stage that was brought up to date with other bytes, or not at all, gives
    another answer.  A chunk gives the same bits as its tokens one by one.
    """

    shares = True

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.memories: dict[bytes, list[float]] = {}
        self.pages: dict[bytes, list[float]] = {}

    async def open(
        self, session_id: bytes, max_positions: int, keys: Sequence[bytes] = ()
    ) -> int:
        await super().open(session_id, max_positions)
        memory = self.memories[session_id] = []
        for key in keys:
            if key not in self.pages:
                break
            memory += self.pages[key]
        return len(memory)

    def keep(self, session_id: bytes, first: int, keys: Sequence[bytes]) -> None:
        memory = self.memories[session_id]
        for number, key in enumerate(keys, first):
            page = memory[number * PAGE_TOKENS : (number + 1) * PAGE_TOKENS]
            if len(page) == PAGE_TOKENS:
                self.pages.setdefault(key, page)

    page_bytes = 8 * PAGE_TOKENS

    async def read_pages(self, keys: Sequence[bytes]) -> bytes:
        self._raise_if_dead()
        await trio.sleep(0)
        found = []
        for key in keys:
            if key not in self.pages:
                break
            found.append(np.array(self.pages[key], "<f8").tobytes())
        return b"".join(found)

    async def write_pages(self, session_id: bytes, content: bytes, pages: int) -> int:
        self._raise_if_dead()
        await trio.sleep(0)
        numbers = np.frombuffer(content, "<f8")
        if numbers.size != pages * PAGE_TOKENS or not np.isfinite(numbers).all():
            raise BadAnswer("no pages")
        self.memories[session_id] += numbers.tolist()
        return len(self.memories[session_id])

    async def forward(
        self, session_id: bytes, position: int, hidden: bytes, tokens: int
    ) -> bytes:
        self._raise_if_dead()
        memory = self.memories.get(session_id)
        if memory is None or position > len(memory):
            raise UnknownSession(f"position {position}")
        await trio.sleep(self.step_s)
        self._raise_if_dead()
        self.forwards += 1
        del memory[position:]
        rows = np.frombuffer(hidden, np.float32).reshape(tokens, HIDDEN)
        return b"".join(self.remember(row, memory).tobytes() for row in rows)

    def remember(self, row: np.ndarray, memory: list[float]) -> np.ndarray:
        """Return one token's output, and add it to the memory."""
        total = (memory[-1] if memory else 0.0) + float(row.sum(dtype=np.float64))
        memory.append(total)
        return self.compute(row) + np.float32(np.sin(total))

    async def close(self, session_id: bytes) -> None:
        await super().close(session_id)
        self.memories.pop(session_id, None)


Guess = Callable[[int, int], Sequence[int]]
"""Guesses so many tokens that follow after so many of the answer."""


def guess_nothing(said: int, wanted: int) -> Sequence[int]:
    """Have no idea."""
    return ()


class SumSampler:
    """The requester's worker: embeds a token as a ramp, samples from the sum."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, int] = {}
        self.positions: dict[bytes, int] = {}
        self.sampled = 0
        self.stop_after = 10**9
        self.looks_ahead = True
        """Whether tokens come with the next step's input."""
        self.guess: Guess = guess_nothing

    async def open(
        self, session_id: bytes, sampling: SamplingParams, prompt_tokens: Sequence[int]
    ) -> None:
        await trio.lowlevel.checkpoint()
        self.sessions[session_id] = 0
        self.positions[session_id] = len(prompt_tokens)

    async def embed(
        self, session_id: bytes, position: int, token_ids: Sequence[int]
    ) -> bytes:
        await trio.lowlevel.checkpoint()
        return embed(position, token_ids).tobytes()

    def begin_choose(
        self,
        session_id: bytes,
        hidden: bytes,
        tokens: int,
        drafts: Sequence[int],
        wanted: int,
        on_done: Callable[[Choice | P2PChainError], None],
    ) -> None:
        """Run `choose` beside the caller, as a process does."""

        async def run() -> None:
            try:
                choice = await self.choose(session_id, hidden, tokens, drafts, wanted)
            except P2PChainError as error:
                on_done(error)
            else:
                on_done(choice)

        trio.lowlevel.spawn_system_task(run)

    async def choose(
        self,
        session_id: bytes,
        hidden: bytes,
        tokens: int,
        drafts: Sequence[int],
        wanted: int,
    ) -> Choice:
        await trio.lowlevel.checkpoint()
        if session_id not in self.sessions:
            raise UnknownSession("it is closed")
        rows = np.frombuffer(hidden, np.float32)
        if rows.size != tokens * HIDDEN or not np.isfinite(rows).all():
            raise BadAnswer("not finite numbers")
        self.sampled += 1
        chosen = []
        for row, draft in zip(
            rows.reshape(tokens, HIDDEN)[-1 - len(drafts) :],
            (*drafts, None),
            strict=True,
        ):
            self.sessions[session_id] += 1
            token_id = choose(row)
            is_last = self.sessions[session_id] >= self.stop_after
            reason = "stop" if is_last else None
            chosen.append(SampledToken(token_id, f"{token_id} ", reason))
            if is_last or token_id != draft:
                break
        said = self.sessions[session_id]
        guesses = tuple(self.guess(said, wanted))
        position = self.positions[session_id] + said - 1
        ahead = embed(position, [token_id, *guesses]).tobytes()
        return Choice(tuple(chosen), guesses, ahead if self.looks_ahead else b"")

    async def close(self, session_id: bytes) -> None:
        self.sessions.pop(session_id, None)


def embed(position: int, token_ids: Sequence[int]) -> np.ndarray:
    """Return (tokens, HIDDEN) numbers of tokens."""
    ids = np.array(token_ids, np.float32)[:, None]
    places = np.arange(position, position + len(token_ids), dtype=np.float32)[:, None]
    return (ids / VOCABULARY + places / 64 + np.arange(HIDDEN) / 8).astype(np.float32)


def choose(row: np.ndarray) -> int:
    """Return the token that a last row stands for."""
    return int(abs(float(row.sum(dtype=np.float64))) * 1000) % VOCABULARY


class Payee:
    """A provider's book over the world's channels; saves like a node does."""

    def __init__(self, world: "World", account: bytes) -> None:
        self._world = world
        self._account = account
        self.store = MemoryStore()
        self.book = PayeeBook(self.store)
        self.standings: dict[bytes, Standing] = {}
        self.closed: list[SessionAccount] = []
        self.is_dead = False
        """A dead process writes nothing more, whatever its tasks still do."""

    def get_channel(self, channel_id: bytes) -> PayeeChannel | None:
        channel = self._world.channels.get(channel_id)
        if channel is None or channel.payee != self._account:
            return None
        self.book.add(BookChannel.from_channel(CHAIN_ID, channel))
        total = self.book.get(channel_id).total
        return PayeeChannel(
            payer=channel.payer,
            signer=channel.signer,
            unit_price=channel.unit_price,
            remaining_units=(channel.deposit - total) // channel.unit_price,
            paid_units=total // channel.unit_price,
            standing=self.standings.get(channel_id, EMPTY_STANDING),
            is_open=channel.status is ChannelStatus.OPEN,
        )

    def accept_payment(self, channel_id: bytes, payment: Payment) -> int:
        return self.book.accept(channel_id, payment)

    def save_standing(self, channel_id: bytes, standing: Standing) -> None:
        if not self.is_dead:
            self.standings[channel_id] = standing

    def on_session_closed(self, account: SessionAccount) -> None:
        if not self.is_dead:
            self.closed.append(account)

    def get_paid(self, channel_id: bytes) -> int:
        """Return the atoms that the best claim is worth."""
        return self.book.get(channel_id).total if channel_id in self.book else 0


class HopNode:
    """A provider: key, stage, book, service."""

    service_class = HopService

    def __init__(self, world: "World", index: int, mark: str = "") -> None:
        self.world = world
        self.index = index
        self.name = f"hop{index}{mark}"
        self.key = build_key(self.name)
        self.account = build_key(f"{self.name}-account").public_key
        self.stage = world.stage_class(index)
        self.payee = Payee(world, self.account)
        self.published: list[Receipt] = []
        self.faults: list[tuple[bytes, str]] = []
        self.limits = HopLimits()
        self.input_price = INPUT_PRICE
        self.output_price = OUTPUT_PRICE
        self.is_serving = True
        self.is_encoder = False
        self.is_alive = True
        self.streams: list[MemoryStream] = []
        self.start_service()

    def start_service(self) -> None:
        """Start anew, as after a restart: memory is gone, the book is not."""
        self.service = self.service_class(self.build_ports(), self.limits)

    def build_ports(self) -> HopPorts:
        return HopPorts(
            chain_id=CHAIN_ID,
            key=self.key,
            get_offer=self.get_offer,
            worker=self.stage,
            dialer=Dialer(self.world, self.key.public_key, self.tamper),
            payee=self.payee,
            publish=self.published.append,
            get_expiry=lambda: 1000,
            on_fault=lambda peer, text: self.faults.append((peer, text)),
        )

    def get_offer(self) -> HopOffer | None:
        if not self.is_serving:
            return None
        return HopOffer(
            profile=PROFILE,
            start=self.index * LAYERS_PER_HOP,
            end=(self.index + 1) * LAYERS_PER_HOP,
            input_price=self.input_price,
            output_price=self.output_price,
            hidden_size=self.world.hidden_size,
            dtype=Dtype.FLOAT32,
            max_positions=self.world.max_positions,
            is_encoder=self.is_encoder,
            shares=getattr(self.stage, "shares", False),
        )

    spoil: Callable[[bytes], bytes] | None = None
    """Changes frames of pages that this hop gives."""

    def tamper(self, message: Message, body: bytes) -> tuple[Message, bytes] | None:
        """Change or drop what this hop sends; what villains override."""
        return message, body

    def kill(self) -> None:
        """Die as a process does: every connection breaks, nothing is said."""
        self.is_alive = False
        self.payee.is_dead = True
        self.scope.cancel()
        for stream in self.streams:
            stream.abort()

    def die(self, way: str) -> bool:
        """Die in one of several ways; return whether the present message still leaves.

        Args:
            way: `before` or `after` the message; `silent` as a machine that vanishes,
                so that no stream ends; `stage` as the process that holds the layers.
        """
        match way:
            case "before":
                self.kill()
            case "after":
                self.world.nursery.start_soon(self._die_soon)
            case "silent":
                self.is_alive = False
                self.scope.cancel()
            case "stage":
                self.stage.is_dead = True
        return way in ("after", "stage")

    async def _die_soon(self) -> None:
        await trio.sleep(0)
        self.kill()

    def revive(self) -> None:
        """Start again with the same book."""
        self.is_alive = True
        self.payee.is_dead = False
        self.streams.clear()
        self.stage = self.world.stage_class(self.index)
        self.start_service()
        self.world.start_hop(self)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Hold the tasks of all handlers."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self.scope = nursery.cancel_scope
            task_status.started()
            await trio.sleep_forever()

    async def serve(self, stream: MemoryStream, protocol: str) -> None:
        """Handle a stream that somebody opened."""
        stream.tamper, stream.spoil = self.tamper, self.spoil
        if protocol == HOP_PROTOCOL:
            await self.service.serve_hop(stream)
        elif protocol == PAGES_PROTOCOL:
            await self.service.serve_pages(stream)
        else:
            assert protocol == PUSH_PROTOCOL
            await self.service.serve_push(stream)


class Dialer:
    """Opens streams from one node of the world to another."""

    def __init__(self, world: "World", own_id: bytes, tamper: Tamper | None) -> None:
        self._world = world
        self._own_id = own_id
        self._tamper = tamper

    async def open_stream(self, peer_id: bytes, protocol: str) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        hop = self._world.hop_of.get(peer_id)
        if hop is None or not hop.is_alive:
            raise StreamOver("no such peer")
        delay_s = self._world.delay_s if self._world.jitter else take_no_time
        ours, theirs = open_pair(self._own_id, peer_id, delay_s)
        ours.is_for_pages = theirs.is_for_pages = protocol == PAGES_PROTOCOL
        ours.tamper = self._tamper
        hop.streams += [ours, theirs]
        hop.nursery.start_soon(hop.serve, theirs, protocol)
        return ours


@dataclass
class World:
    """One client and a route of hops, each with a channel to it."""

    hops: list[HopNode] = field(default_factory=list)
    channels: dict[bytes, Channel] = field(default_factory=dict)
    hop_of: dict[bytes, HopNode] = field(default_factory=dict)
    faults: list[tuple[bytes, str]] = field(default_factory=list)
    sessions: int = 0
    hidden_size: int = HIDDEN
    max_positions: int = 4096
    jitter: Random | None = None
    """Makes every send take up to 20 ms."""
    stage_class: type[AffineStage] = AffineStage
    spares: list[HopNode] = field(default_factory=list)
    """Other providers of the same layers."""
    can_recover: bool = False
    sources: dict[bytes, bytes] = field(default_factory=dict)
    """Node key of who has pages, by that of who may lack them."""
    prefix_secret: bytes = b""
    """Of the client; without one its sessions share nothing."""
    searches: list[FindHops] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = build_key("client")
        self.signer = build_key("client-session")
        self.node_key = build_key("client-node")
        self.worker = SumSampler()
        self.purse = PayerBook(MemoryStore(), self.signer)
        self.payer = SharedPayer(self.purse)

    def add_hop(self, kind: type[HopNode] = HopNode) -> HopNode:
        hop = kind(self, len(self.hops))
        self.hops.append(hop)
        self.hop_of[hop.key.public_key] = hop
        self.open_channel(hop)
        return hop

    def add_spare(self, index: int, kind: type[HopNode] = HopNode) -> HopNode:
        """Add another provider of the layers of hop `index`."""
        hop = kind(self, index, f"-{len(self.spares)}")
        self.spares.append(hop)
        self.hop_of[hop.key.public_key] = hop
        self.open_channel(hop)
        return hop

    async def find(self, wanted: FindHops) -> tuple[HopPlan, ...]:
        """Find hops as a gateway does: any that are up, of just these layers."""
        await trio.lowlevel.checkpoint()
        self.searches.append(wanted)
        arrears = {e.peer_id: e.owed_units for e in wanted.lost if is_owing(e)}
        found = []
        for index in range(
            wanted.start // LAYERS_PER_HOP, wanted.end // LAYERS_PER_HOP
        ):
            able = [
                hop
                for hop in (*self.spares, *self.hops)
                if hop.index == index
                and hop.is_alive
                and hop.is_serving
                and not getattr(hop.stage, "is_dead", False)
                and hop.key.public_key not in wanted.excluded
            ]
            if not able:
                raise StreamOver(f"nobody else has layers {wanted.start}")
            key = able[0].key.public_key
            found.append(self.plan_hop(able[0], arrears.get(key, 0)))
        return tuple(found)

    def open_channel(self, hop: HopNode, deposit: int = DEPOSIT) -> Channel:
        name = f"channel-{hop.name}-{len(self.channels)}"
        channel = Channel(
            channel_id=compute_hash("test", name.encode()),
            shard=1,
            payer=self.client.public_key,
            payee=hop.account,
            signer=self.signer.public_key,
            deposit=deposit,
            unit_price=UNIT_PRICE,
            settled=0,
            status=ChannelStatus.OPEN,
            close_height=0,
            opened_height=1,
            settlements=0,
            worked=0,
        )
        self.channels[channel.channel_id] = channel
        self.purse.add(PayerChannel.from_channel(CHAIN_ID, channel, self.signer))
        hop.channel_id = channel.channel_id
        return channel

    def tamper(self, message: Message, body: bytes) -> tuple[Message, bytes] | None:
        """Change or drop what the client sends; what tests replace."""
        return message, body

    def delay_s(self) -> float:
        """Return how long a send takes."""
        return self.jitter.random() * 0.02 if self.jitter else 0.0

    def start_hop(self, hop: HopNode) -> None:
        self.nursery.start_soon(self.nursery.start, hop.run)

    @property
    def ports(self) -> RequesterPorts:
        return RequesterPorts(
            worker=self.worker,
            dialer=Dialer(self, self.node_key.public_key, self.tamper),
            payer=self.payer,
            signer=self.signer,
            on_fault=lambda peer, text: self.faults.append((peer, text)),
            finder=self if self.can_recover else None,
        )

    def plan_hop(self, hop: HopNode, arrears_units: int = 0) -> HopPlan:
        return HopPlan(
            peer_id=hop.key.public_key,
            node_name=hop.name,
            account=hop.account,
            profile=PROFILE,
            start=hop.index * LAYERS_PER_HOP,
            end=(hop.index + 1) * LAYERS_PER_HOP,
            input_price=INPUT_PRICE,
            output_price=OUTPUT_PRICE,
            channel_id=hop.channel_id,
            unit_price=UNIT_PRICE,
            arrears_units=arrears_units,
            source=self.sources.get(hop.key.public_key),
        )

    def plan(
        self, prompt: Sequence[int], max_tokens: int, arrears: Sequence[int] = ()
    ) -> SessionPlan:
        self.sessions += 1
        number = self.sessions.to_bytes(4, "big")
        return SessionPlan(
            chain_id=CHAIN_ID,
            session_id=compute_hash("test", b"session", number),
            client=self.client.public_key,
            hops=tuple(
                self.plan_hop(hop, arrears[hop.index] if arrears else 0)
                for hop in self.hops
            ),
            prompt=tuple(prompt),
            max_tokens=max_tokens,
            hidden_size=self.hidden_size,
            dtype=Dtype.FLOAT32,
            prefix_secret=self.prefix_secret,
        )

    def session(
        self,
        prompt: Sequence[int],
        max_tokens: int = 8,
        *,
        arrears: Sequence[int] = (),
        timeouts: SessionTimeouts | None = None,
        speculation: Speculation = Speculation.AUTO,
    ) -> RequesterSession:
        plan = self.plan(prompt, max_tokens, arrears)
        sampling = SamplingParams(
            temperature=0,
            max_tokens=max(max_tokens, 1),
            ignore_eos=True,
            speculation=speculation,
        )
        return RequesterSession(self.ports, plan, sampling, timeouts)

    # What should be

    def expect(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Return the answer, computed in one piece: the slow, obvious reference."""
        if self.stage_class is RunningStage:
            return self._expect_running(prompt, max_tokens)
        tokens, answer = list(prompt), []
        for _ in range(max_tokens):
            row = embed(len(tokens) - 1, tokens[-1:])[0]
            for hop in self.hops:
                row = AffineStage(hop.index).compute(row)
            answer.append(choose(row))
            tokens.append(answer[-1])
        return answer

    def _expect_running(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        stages = [RunningStage(hop.index) for hop in self.hops]
        memories: list[list[float]] = [[] for _ in stages]
        tokens, answer = list(prompt), []
        position = 0
        while len(answer) < max_tokens:
            row = embed(position, [tokens[position]])[0]
            for stage, memory in zip(stages, memories, strict=True):
                row = stage.remember(row, memory)
            position += 1
            if position == len(tokens):
                answer.append(choose(row))
                tokens.append(answer[-1])
        return answer

    def get_paid(self) -> list[int]:
        """Return the atoms that each hop can claim."""
        return [hop.payee.get_paid(hop.channel_id) for hop in self.hops]

    def get_sent(self) -> list[int]:
        """Return the atoms that the client has paid to each hop."""
        return [self.purse.get(hop.channel_id).paid_total for hop in self.hops]

    async def rest(self) -> None:
        """Wait until every stage and the requester's worker are free again."""
        with trio.fail_after(30):
            while not self.is_idle():
                await trio.sleep(0.1)

    def is_idle(self) -> bool:
        """Tell whether nothing is held for any session."""
        return not self.worker.sessions and all(
            not hop.stage.sessions and not hop.service.sessions
            for hop in (*self.hops, *self.spares)
            if hop.is_alive
        )


@asynccontextmanager
async def open_world(
    hops: int = 4,
    villains: dict[int, type[HopNode]] | None = None,
    spares: Sequence[int] = (),
) -> AsyncIterator[World]:
    """Run a world; afterwards every task of it is gone.

    Args:
        hops: Providers, each with its part of the layers.
        villains: Those that are not like the others.
        spares: Whose layers another provider has, too; then sessions recover, and
            stages have a memory.
    """
    world = World()
    if spares:
        world.can_recover, world.stage_class = True, RunningStage
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        for index in range(hops):
            hop = world.add_hop((villains or {}).get(index, HopNode))
            await nursery.start(hop.run)
        for index in spares:
            await nursery.start(world.add_spare(index).run)
        yield world
        nursery.cancel_scope.cancel()


def build_sampling(max_tokens: int) -> SamplingParams:
    """Return how a greedy answer of so many tokens is chosen."""
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)


def is_owing(error: Exception) -> bool:
    """Tell whether a hop wants to be paid for an earlier session first."""
    return isinstance(error, HopRefused) and error.code == RefuseCode.UNPAID


async def collect(session: RequesterSession) -> list[TokenEvent]:
    """Run a session and return its tokens; the summary stays in the session."""
    events: list[TokenEvent] = []

    async def emit(event: TokenEvent) -> None:
        events.append(event)

    await session.run(emit)
    return events


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run an async test on a virtual clock: waiting costs nothing."""
    trio.run(test, clock=MockClock(autojump_threshold=0))

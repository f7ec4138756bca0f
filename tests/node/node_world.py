"""
A whole small network in one task tree: a chain, providers, a gateway, no processes.

Everything is the node's own but three things: blocks come once a virtual second from a
leader who is never late, streams and gossip are queues in memory, and workers are the
toy layers of the tests of sessions.  `AFFINE` layers can be computed in one's head, so
answers are checked against a slow reference.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from chain_world import MODEL, World, build_genesis
from session_world import (
    HIDDEN,
    VOCABULARY,
    AffineStage,
    MemoryStream,
    SumSampler,
    Tamper,
    choose,
    embed,
    open_pair,
)
from trio.testing import MockClock

from chain.records.spec import ChainSpec
from chain.records.transaction import Payload
from genesis.presets import build_devnet_genesis
from genesis.state import build_chain_spec
from inference.device.precision import Precision
from inference.errors import BadPrompt, WorkerFailed
from inference.sampling.params import ChatMessage, SamplingParams
from inference.session.shared_payer import SharedPayer
from inference.weights.model_info import ModelInfo
from inference.worker.supervisor import WorkerState, WorkerStatus
from network.endpoint import Endpoint
from network.faults import Fault
from network.network import PeerInfo
from network.topics import Topic, Verdict
from p2pchain.api.completion import CompletionRequest, Delta, Finished, Started
from p2pchain.node.chain.service import ChainService
from p2pchain.node.gateway.gateway import Gateway
from p2pchain.node.hosting.provider import Provider
from p2pchain.node.money.channel_pool import ChannelPool
from p2pchain.node.money.provider_book import ProviderBook
from p2pchain.node.money.settlement import Settlement
from p2pchain.node.money.treasury import Treasury
from p2pchain.node.work_feed import WorkFeed
from primitives.errors import MissingError
from primitives.hashing import compute_hash
from primitives.keys import SecretKey
from primitives.kv import MemoryStore
from wallet.book import PayerBook
from wallet.payer import derive_session_key

COIN = 10**9
BLOCK_S = 1.0
INPUT_PRICE, OUTPUT_PRICE = 400, 1600

INFO = ModelInfo(
    name=MODEL.name,
    architecture=MODEL.architecture,
    layers=MODEL.layers,
    hidden_size=HIDDEN,
    vocab_size=VOCABULARY,
    max_positions=600,
    dtype="float32",
    weights_root=MODEL.weights_root,
    tokenizer_hash=MODEL.tokenizer_hash,
)


def build_key(name: str) -> SecretKey:
    """Return the key that belongs to a name."""
    return SecretKey(compute_hash("test", name.encode()))


def build_spec(balances: dict[bytes, int]) -> ChainSpec:
    """Return a chain on which accounts hold atoms in the root shard."""
    template = build_genesis()
    genesis = build_devnet_genesis(
        validators=template.validators,
        models=template.models,
        balances=balances,
        time_ms=template.time_ms,
    )
    return build_chain_spec(genesis)


class OutOfReach(MissingError):
    """No such peer here."""


class Net:
    """One node's network: gossip and streams to the others of its `hub`."""

    def __init__(self, hub: dict[bytes, "Net"], key: SecretKey) -> None:
        self.peer_id = key.public_key
        self.published: list[tuple[Topic, bytes]] = []
        self.faults: list[tuple[bytes, Fault]] = []
        self.endpoints: list[Endpoint] = []
        self.is_alive = True
        self.streams: list[MemoryStream] = []
        self.nursery: trio.Nursery | None = None
        self.tamper: Tamper | None = None
        """Changes or drops what this node sends."""
        self._hub = hub
        self._checks: dict[Topic, Callable[[bytes, bytes], Awaitable[Verdict]]] = {}
        self._handlers: dict[str, Callable[[bytes, object], Awaitable[None]]] = {}
        hub[self.peer_id] = self

    def subscribe(self, topic, check) -> None:
        self._checks[topic] = check

    def handle(self, protocol, handler, **params) -> None:
        self._handlers[protocol] = handler

    def handle_request(self, protocol, handler, **params) -> None:
        self._handlers[protocol] = handler

    def publish(self, topic: Topic, payload: bytes) -> None:
        self.published.append((topic, payload))

    async def deliver(self, topic: Topic, payload: bytes, sender=bytes(32)) -> Verdict:
        """Hand a gossip message in, as from `sender`."""
        return await self._checks[topic](sender, payload)

    def penalize(self, peer_id: bytes, fault: Fault) -> None:
        self.faults.append((peer_id, fault))

    def add_endpoint(self, endpoint: Endpoint, *, persistent: bool = False) -> None:
        self.endpoints.append(endpoint)

    def peers(self) -> list[PeerInfo]:
        return []

    async def open_stream(self, peer_id: bytes, protocol: str) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        other = self._hub.get(peer_id)
        if other is None or not other.is_alive or other.nursery is None:
            raise OutOfReach("no such peer")
        ours, theirs = open_pair(self.peer_id, peer_id)
        ours.tamper, theirs.tamper = self.tamper, other.tamper
        self.streams.append(ours)
        other.streams.append(theirs)
        handler = other._handlers[protocol]
        other.nursery.start_soon(handler, self.peer_id, theirs)
        return ours

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Hold the tasks of handlers."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def cut(self) -> None:
        """Lose every connection, as when the process dies."""
        self.is_alive = False
        for stream in self.streams:
            stream.abort()


class ToyWorker:
    """A worker's life without a process."""

    info = INFO
    layers: tuple[int, int] | None = None
    dtype = INFO.dtype

    def start_life(self) -> None:
        self.ready = trio.Event()
        self.state = WorkerState.STARTING
        self.reason = ""
        self._changed = trio.Event()
        self.starts_ready = True

    def set_state(self, state: WorkerState, reason: str = "") -> None:
        """Become READY, lost or FAILED."""
        self.state, self.reason = state, reason
        if state is WorkerState.READY:
            self.ready.set()
        else:
            self.ready = trio.Event()
        self._changed.set()
        self._changed = trio.Event()

    @property
    def status(self) -> WorkerStatus:
        return WorkerStatus(
            state=self.state,
            reason=self.reason,
            pid=1,
            restarts=0,
            layers=self.layers,
            bytes_read=0,
            position_bytes=0,
            used_bytes=0,
            engine="",
        )

    async def run(self) -> None:
        if self.starts_ready:
            self.set_state(WorkerState.READY)
        await trio.sleep_forever()

    async def wait_ready(self) -> None:
        while self.state is not WorkerState.READY:
            if self.state is WorkerState.FAILED:
                raise WorkerFailed(self.reason)
            await self._changed.wait()


class ToyStage(AffineStage, ToyWorker):
    """Layers [start, end); every layer is the same affine map."""

    precision = Precision.NATIVE
    rolls_back = True
    shares = False

    def __init__(self, layers: tuple[int, int]) -> None:
        AffineStage.__init__(self, layers[0])
        self.layers = layers
        self.start_life()


class ToyRequester(SumSampler, ToyWorker):
    """Tokens are the words' lengths."""

    has_draft_model = False

    def __init__(self) -> None:
        SumSampler.__init__(self)
        self.start_life()

    async def encode_text(self, text: str) -> list[int]:
        await trio.lowlevel.checkpoint()
        if "\0" in text:
            raise BadPrompt("a zero byte")
        return [len(word) % VOCABULARY for word in text.split()]

    async def encode_chat(self, messages: list[ChatMessage]) -> list[int]:
        return await self.encode_text(" ".join(m.content for m in messages))


def expect_tokens(prompt: list[int], count: int, starts: tuple[int, ...]) -> list[int]:
    """Return the answer of stages that begin at layers `starts`, in one piece."""
    tokens, answer = list(prompt), []
    for _ in range(count):
        row = embed(len(tokens) - 1, tokens[-1:])[0]
        for start in starts:
            row = AffineStage(start).compute(row)
        answer.append(choose(row))
        tokens.append(answer[-1])
    return answer


class ProviderNode:
    """A node that hosts layers; `kill` and `start` are a crash and a restart."""

    def __init__(self, network: "Network", name: str, layers: tuple[int, int]) -> None:
        self.network = network
        self.name = name
        self.layers = layers
        self.account = build_key(f"{name}-account")
        self.key = build_key(f"{name}-node")
        self.prices = (INPUT_PRICE, OUTPUT_PRICE)
        self.store = MemoryStore()
        self.endpoint = Endpoint(self.key.public_key, "127.0.0.1", 9999)

    def build(self) -> None:
        """Put the parts together over the node's store."""
        chain = self.chain = self.network.chain
        self.net = Net(self.network.hub, self.key)
        self.treasury = Treasury(self.account, chain)
        self.settlement = Settlement(chain, self.treasury)
        self.book = ProviderBook(
            self.store,
            chain.chain_id,
            self.account.public_key,
            chain.queries.market.get_channel,
            self.settlement.notice,
        )
        self.stage = ToyStage(self.layers)
        self.feed = WorkFeed(self.net, chain.chain_id, lambda key: True)
        self.provider = Provider(
            worker=self.stage,
            prices=self.prices,
            node_key=self.key,
            chain=chain,
            treasury=self.treasury,
            network=self.net,
            book=self.book,
            publish=self.feed.publish,
        )

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Run the node's services until `kill`."""
        async with trio.open_nursery() as nursery:
            self.scope = nursery.cancel_scope
            await nursery.start(self.net.run)
            nursery.start_soon(self.provider.run, (self.endpoint,))
            nursery.start_soon(self.settlement.run, self.book)
            task_status.started()

    async def start(self) -> None:
        """Start, and return once customers can be served."""
        self.build()
        await self.network.nursery.start(self.run)
        with trio.fail_after(120):
            while not self.provider.is_active:
                await trio.sleep(0.1)

    def kill(self) -> None:
        """Die at once: what a cancelled task would still write is not written."""
        frozen = dict(self.store._values)
        self.net.cut()
        self.scope.cancel()
        self.store = MemoryStore()
        self.store.write(frozen)

    @property
    def registration(self):
        return self.chain.queries.market.get_registration(self.account.public_key)


class GatewayNode:
    """A node with a wallet and no layers."""

    def __init__(self, network: "Network", name: str = "gateway") -> None:
        self.network = network
        self.account = build_key(f"{name}-account")
        self.key = build_key(f"{name}-node")
        self.store = MemoryStore()

    def build(self) -> None:
        chain = self.chain = self.network.chain
        self.net = Net(self.network.hub, self.key)
        self.treasury = Treasury(self.account, chain)
        session_key = derive_session_key(self.account)
        self.book = PayerBook(self.store, session_key)
        self.pool = ChannelPool(chain, self.treasury, self.book, session_key)
        self.worker = ToyRequester()
        self.gateway = Gateway(
            worker=self.worker,
            session_key=session_key,
            chain=chain,
            treasury=self.treasury,
            network=self.net,
            pool=self.pool,
            payer=SharedPayer(self.book),
            names={},
        )

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self.scope = nursery.cancel_scope
            await nursery.start(self.net.run)
            nursery.start_soon(self.gateway.run)
            nursery.start_soon(self.pool.run)
            task_status.started()

    async def start(self) -> None:
        self.build()
        await self.network.nursery.start(self.run)
        await self.worker.wait_ready()

    def kill(self) -> None:
        """Die at once; see `ProviderNode.kill`."""
        frozen = dict(self.store._values)
        self.net.cut()
        self.scope.cancel()
        self.store = MemoryStore()
        self.store.write(frozen)

    def ask(self, prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 8, **changes):
        """Return the generator of an answer."""
        return self.gateway.complete(build_request(prompt, max_tokens, **changes))

    async def answer(
        self,
        prompt: tuple[int, ...] = (1, 2, 3),
        max_tokens: int = 8,
        seen: list[int] | None = None,
        **changes,
    ) -> "Answered":
        """Ask and read the whole answer; `seen` gets its tokens, also of a half one."""
        answered = Answered(tokens=[] if seen is None else seen)
        async for event in self.ask(prompt, max_tokens, **changes):
            answered.add(event)
        return answered


@dataclass
class Answered:
    """What a reader got."""

    started: Started | None = None
    tokens: list[int] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, event: object) -> None:
        match event:
            case Started():
                assert self.started is None
                self.started = event
            case Delta(text=text):
                assert self.started is not None
                self.tokens += [int(word) for word in text.split()]
            case Finished():
                self.finished = event


def build_request(prompt=(1, 2, 3), max_tokens: int | None = 8, **changes):
    """Return a request for a greedy answer."""
    fields = {
        "model": INFO.name,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "sampling": SamplingParams(temperature=0, ignore_eos=True),
    } | changes
    return CompletionRequest(**fields)


class Network:
    """The chain, its ticking, and whoever takes part."""

    def __init__(self, layers: tuple[tuple[int, int], ...]) -> None:
        self.hub: dict[bytes, Net] = {}
        self.providers = [
            ProviderNode(self, f"node{index}", each)
            for index, each in enumerate(layers)
        ]
        self.gateway = GatewayNode(self)
        people = [*self.providers, self.gateway]
        spec = build_spec({p.account.public_key: 1000 * COIN for p in people})
        self.net = Net(self.hub, build_key("leader"))
        self.world = World(spec)
        self.chain = ChainService(spec, MemoryStore(), self.net)
        self.world.tree = self.chain.tree
        self.is_stalled = False

    def make_block(self) -> None:
        """Make the next block of what waits."""
        held = self.world.build(picker=self.chain.mempool)
        self.chain.finalize(self.world.certify(held))

    async def tick(self) -> None:
        """Make a block every second."""
        while True:
            await trio.sleep(BLOCK_S)
            if not self.is_stalled:
                self.make_block()

    async def wait_until(self, condition: Callable[[], bool], seconds=300.0) -> None:
        """Wait until a condition holds; virtual time costs nothing."""
        with trio.fail_after(seconds):
            while not condition():
                await trio.sleep(0.1)

    def list_transactions(self, account: SecretKey, kind: type[Payload]) -> list:
        """Return an account's final transactions of one kind, oldest first."""
        found, after = [], None
        while True:
            page = self.chain.queries.list_address_transactions(
                account.public_key, after
            )
            found += [
                each
                for each in page.items
                if isinstance(each.signed.transaction.payload, kind)
                and each.signed.transaction.sender == account.public_key
            ]
            after = page.next
            if after is None:
                return found[::-1]

    def channels(self) -> list:
        """Return the gateway's channels, oldest first; of one block, by shard."""
        address = self.gateway.account.public_key
        channels = self.chain.queries.market.list_channels(address).items
        return sorted(channels, key=lambda c: (c.opened_height, c.shard))

    def is_settled(self) -> bool:
        """Tell whether everything that was promised is paid."""
        return all(
            self.gateway.pool.get_promised(c.channel_id) == c.settled
            for c in self.channels()
        )

    async def rest(self) -> None:
        """Wait until no session is open anywhere."""
        await self.wait_until(
            lambda: (
                not self.gateway.worker.sessions
                and all(
                    not p.stage.sessions and not p.provider.hops.sessions
                    for p in self.providers
                )
            )
        )


HALVES = ((0, 4), (4, 8))


@asynccontextmanager
async def open_network(
    layers: tuple[tuple[int, int], ...] = HALVES, *, is_started: bool = True
) -> AsyncIterator[Network]:
    """Run a network; afterwards every task of it is gone."""
    network = Network(layers)
    async with trio.open_nursery() as nursery:
        network.nursery = nursery
        nursery.start_soon(network.tick)
        if is_started:
            for provider in network.providers:
                await provider.start()
            await network.gateway.start()
        yield network
        nursery.cancel_scope.cancel()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run an async test on a virtual clock: waiting costs nothing."""
    trio.run(test, clock=MockClock(autojump_threshold=0))

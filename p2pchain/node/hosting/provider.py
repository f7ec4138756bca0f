"""
A provider: layers in a worker, a registration on chain, sessions for whoever pays.

    worker READY -> measure a step -> register -> ACTIVE -> serve hop/1 and push/1

The registration is renewed when price, address or layers differ from what the chain
shows; nothing is sent when it is right already, so a restart costs no fee.  A worker
that cannot start leaves the node without layers and otherwise as it is.
"""

import logging
import time
from collections.abc import Callable
from statistics import median_low

import trio

from chain.errors import ShardNotFollowed
from chain.records.model import compute_model_id
from chain.records.proof import Receipt
from chain.records.registration import Register, Registration, RegistrationStatus
from inference.errors import WorkerFailed
from inference.hop.ports import HopOffer, HopPorts
from inference.hop.service import HopService
from inference.protocol.activations import DTYPE_OF_NAME, compute_size
from inference.protocol.messages import HOP_PROTOCOL, PUSH_PROTOCOL
from inference.protocol.page_messages import PAGES_PROTOCOL
from inference.worker.stage_worker import StageWorker
from network.endpoint import Endpoint
from network.faults import Fault
from network.network import Network
from network.stream import Stream
from network.topics import Priority
from p2pchain.node.chain.service import ChainService
from p2pchain.node.home.profile import get_profile_hash
from p2pchain.node.money.provider_book import ProviderBook
from p2pchain.node.money.treasury import Treasury
from primitives.errors import P2PChainError
from primitives.keys import SecretKey
from primitives.types import ShardId
from shards.errors import UnknownLayers

log = logging.getLogger(__name__)

RECEIPT_LIFETIME_BLOCKS = 20_000
"""How long a receipt can be disputed: several hours of blocks."""
FIRST_PAUSE_S = 3.0
LONGEST_PAUSE_S = 300.0
"""Between attempts to register: soon at first, until funds or peers have arrived;
rarely when the chain goes on refusing, because each attempt costs a fee."""
FLUSH_S = 1.0
"""What a power cut can cost us of customers' payments."""
MEASURED_STEPS = 5
DRAIN_S = 5.0
"""What open sessions get to move to another provider when the node stops."""
STOP_S = 5.0
"""What those that did not get to say goodbye."""
MEASURE_SESSION = b"measure".ljust(32, b"\0")


class Provider:
    """This node's layers, and the service that sells them."""

    def __init__(
        self,
        *,
        worker: StageWorker,
        prices: tuple[int, int],
        node_key: SecretKey,
        chain: ChainService,
        treasury: Treasury,
        network: Network,
        book: ProviderBook,
        publish: Callable[[Receipt], None],
    ) -> None:
        """
        Args:
            worker: Runs the layers.
            prices: Atoms per layer and token, of prompts and of answers.
            node_key: Signs receipts.
            chain: Where we register.
            treasury: Pays collateral and fees.
            network: Brings customers.
            book: Keeps their payments.
            publish: Tells the world about a receipt.
        """
        self.worker = worker
        self._prices = prices
        self._node_key = node_key
        self._chain = chain
        self._treasury = treasury
        self._book = book
        self._tell_world = publish
        self._is_active = False
        info = worker.info
        self.model_id = compute_model_id(info.weights_root, info.tokenizer_hash)
        self.hops = HopService(
            HopPorts(
                chain_id=chain.chain_id,
                key=node_key,
                get_offer=self.get_offer,
                worker=worker,
                dialer=network,
                payee=book,
                publish=self._publish,
                get_expiry=lambda: chain.height + RECEIPT_LIFETIME_BLOCKS,
                on_fault=lambda peer, text: network.penalize(peer, Fault.BAD_MESSAGE),
            )
        )
        network.handle(HOP_PROTOCOL, self._serve_hop)
        network.handle(PUSH_PROTOCOL, self._serve_push)
        # Steps of sessions go before what saves others some work.
        network.handle(PAGES_PROTOCOL, self._serve_pages, priority=Priority.BULK)

    @property
    def is_active(self) -> bool:
        """Whether routes can use us: loaded, tested and registered."""
        return self._is_active and self.worker.ready.is_set()

    def get_offer(self) -> HopOffer | None:
        """Return what we serve now."""
        if not self.is_active:
            return None
        info = self.worker.info
        start, end = self.worker.layers
        return HopOffer(
            profile=get_profile_hash(info, self.worker.precision),
            start=start,
            end=end,
            input_price=self._prices[0],
            output_price=self._prices[1],
            hidden_size=info.hidden_size,
            dtype=DTYPE_OF_NAME[self.worker.dtype],
            max_positions=info.max_positions,
            is_encoder=info.is_encoder,
            rolls_back=self.worker.rolls_back,
            shares=self.worker.shares,
        )

    async def run(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Load, register and serve until cancelled.

        Args:
            endpoints: Where customers reach us.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.worker.run)
            nursery.start_soon(self._flush)
            try:
                measured_us = await self._measure()
            except WorkerFailed as error:
                log.error("no layers are served: %s", error)
                return
            await self._register(endpoints, measured_us)
            self._is_active = True
            log.info("serving layers [%d, %d)", *self.worker.layers)

    async def drain(self) -> None:
        """Take no more sessions and wait until the open ones are over and filed.

        They are asked to move to other providers, and ended if they do not.
        """
        self._is_active = False
        self.hops.leave()
        with trio.move_on_after(DRAIN_S):
            await self._wait_idle()
        self.hops.stop()
        with trio.move_on_after(STOP_S):
            await self._wait_idle()
        self._book.flush()

    async def _wait_idle(self) -> None:
        while self.hops.sessions:
            await trio.sleep(0.05)

    async def _serve_hop(self, peer_id: bytes, stream: Stream) -> None:
        await self.hops.serve_hop(stream)

    async def _serve_pages(self, peer_id: bytes, stream: Stream) -> None:
        await self.hops.serve_pages(stream)

    async def _serve_push(self, peer_id: bytes, stream: Stream) -> None:
        await self.hops.serve_push(stream)

    def _publish(self, receipt: Receipt) -> None:
        self._book.keep_receipt(receipt)
        self._tell_world(receipt)

    async def _flush(self) -> None:
        while True:
            await trio.sleep(FLUSH_S)
            self._book.flush()

    async def _measure(self) -> int:
        """Return the time of a decode step here, in microseconds, once it is known.

        Raises:
            WorkerFailed: The worker never will be ready.
        """
        while True:
            await self.worker.wait_ready()
            try:
                return await self._time_steps()
            except WorkerFailed:
                raise
            except P2PChainError as error:
                log.warning("not measured yet: %s", error)
                await trio.sleep(FIRST_PAUSE_S)

    async def _time_steps(self) -> int:
        info = self.worker.info
        hidden = bytes(
            compute_size(1, info.hidden_size, DTYPE_OF_NAME[self.worker.dtype])
        )
        await self.worker.open(MEASURE_SESSION, MEASURED_STEPS)
        times = []
        try:
            for step in range(MEASURED_STEPS):
                # A text begins anew each time.
                position = 0 if info.is_encoder else step
                started = time.perf_counter_ns()
                await self.worker.forward(MEASURE_SESSION, position, hidden, 1)
                times.append((time.perf_counter_ns() - started) // 1000)
        finally:
            await self.worker.close(MEASURE_SESSION)
        return median_low(times)

    async def _register(
        self, endpoints: tuple[Endpoint, ...], measured_us: int
    ) -> None:
        """Make the chain show our offer as it is now."""
        offer = self._build_offer(endpoints, measured_us)
        # Before there is a block, a transaction would only grow old.
        await self._chain.wait_height(1)
        pause_s, is_first = FIRST_PAUSE_S, True
        while True:
            try:
                current = self._get_registration()
            except ShardNotFollowed as error:
                log.warning("not registered yet: %s", error)
                await self._wait_followed(self._get_home())
                continue
            except UnknownLayers as error:
                log.warning("not registered: the chain has let the model go: %s", error)
                return
            if current is not None and _shows(current, offer):
                if current.status is RegistrationStatus.ACTIVE:
                    return
                if current.status is RegistrationStatus.PENDING:
                    await self._chain.wait_height(self._chain.height + 1)
                    continue
                log.warning("another shard of the range refused the registration")
            if not is_first:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            is_first = False
            locked = 0 if current is None else current.collateral
            amount = max(0, offer.collateral - locked)
            try:
                await self._treasury.execute(self._get_home(), offer, amount)
            except P2PChainError as error:
                log.warning("not registered yet: %s", error)

    async def _wait_followed(self, shard: ShardId) -> None:
        while shard not in self._chain.queries.followed:
            await self._chain.wait_height(self._chain.height + 1)

    def _get_registration(self) -> Registration | None:
        """Return ours in the shard of our first layer; other shards keep old ones."""
        address, home = self._treasury.address, self._get_home()
        return self._chain.queries.market.get_registration(address, home)

    def _get_home(self) -> int:
        layout = self._chain.queries.layout
        return layout.home_shard(self.model_id, self.worker.layers[0])

    def _build_offer(
        self, endpoints: tuple[Endpoint, ...], measured_us: int
    ) -> Register:
        start, end = self.worker.layers
        params = self._chain.spec.params
        ticket = max(self._prices) * (end - start) * params.ticket_tokens
        minimum = self._chain.queries.market.get_model(self.model_id).min_collateral
        return Register(
            model_id=self.model_id,
            profile=get_profile_hash(self.worker.info, self.worker.precision),
            start=start,
            end=end,
            input_price=self._prices[0],
            output_price=self._prices[1],
            measured_us=measured_us,
            collateral=max(minimum, params.collateral_tickets * ticket),
            payout=self._treasury.address,
            node_key=self._node_key.public_key,
            addresses=tuple(map(str, endpoints)),
        )


def _shows(registration: Registration, offer: Register) -> bool:
    """Tell whether the chain shows what we offer; times may differ, they are noise."""
    return all(
        getattr(registration, name) == getattr(offer, name)
        for name in (
            "model_id",
            "profile",
            "start",
            "end",
            "input_price",
            "output_price",
            "node_key",
            "addresses",
        )
    )

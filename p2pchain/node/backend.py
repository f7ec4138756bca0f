"""The node as its HTTP interfaces see it: the `Backend` of p2pchain/api/backend.py."""

from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from chain.queries.foreign_state import ForeignValue
from chain.queries.queries import Queries
from chain.records.channel import (
    Channel,
    ChannelStatus,
    Close,
    OpenChannels,
    RequestClose,
    Withdraw,
    compute_channel_id,
)
from chain.records.outcome import Outcome
from chain.records.proposal import Change
from chain.records.registration import RegistrationStatus
from chain.records.resharding import Reshard, ReshardVote
from chain.records.transaction import SignedTransaction
from chain.rewarding.evidence import Verdict
from chain.tree.evidence_pool import PooledEvidence
from genesis.genesis import Genesis
from network.endpoint import Endpoint
from network.network import Network
from p2pchain.api.completion import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    RouteHop,
    SeenReceipt,
    ServedModel,
)
from p2pchain.api.errors import (
    InsufficientFunds,
    NotFound,
    RequestRefused,
    TransactionRejected,
    UnknownModel,
)
from p2pchain.api.status import (
    ConsensusInfo,
    MempoolInfo,
    NetInfo,
    NodeStatus,
)
from p2pchain.api.wallet_results import (
    OpenResult,
    OwnChannel,
    SendResult,
    SettledTransaction,
)
from p2pchain.errors import StakeRefused, TransactionFailed
from p2pchain.node.chain.foreign_state import StateExchange
from p2pchain.node.chain.service import ChainService
from p2pchain.node.consensus.driver import ConsensusDriver
from p2pchain.node.gateway.gateway import Gateway
from p2pchain.node.home.config import Config
from p2pchain.node.hosting.model_host import ModelHost
from p2pchain.node.hosting.provider import Provider
from p2pchain.node.money.channel_pool import ChannelPool
from p2pchain.node.money.provider_book import ProviderBook
from p2pchain.node.money.staking import Staking
from p2pchain.node.money.treasury import Treasury
from p2pchain.node.state_sync.shard_sync import ShardSync
from p2pchain.node.state_sync.state_sync import StateSync
from p2pchain.node.status import (
    build_consensus_info,
    build_net_info,
    build_status,
)
from p2pchain.node.weights.fetcher import WeightsFetcher
from p2pchain.node.work_feed import WorkFeed
from primitives.types import Height, ShardId
from shards.layout import ROOT_SHARD
from wallet import errors as wallet_errors
from wallet.transactions import estimate_fee, estimate_transfer_fee


@dataclass(slots=True, kw_only=True)
class NodeBackend:
    """Reads and requests over the parts of one node."""

    config: Config
    genesis: Genesis
    endpoints: tuple[Endpoint, ...]
    """Where peers reach us."""
    network: Network
    chain: ChainService
    driver: ConsensusDriver
    treasury: Treasury
    pool: ChannelPool
    book: ProviderBook
    feed: WorkFeed
    provider: Provider | None
    gateway: Gateway | None
    staking: Staking
    state_sync: StateSync
    shard_sync: ShardSync
    foreign_state: StateExchange
    weights: WeightsFetcher
    model_host: ModelHost | None
    """Of a node that gets its model, or its layers, while it runs."""

    # The node

    @property
    def queries(self) -> Queries:
        """Reads over the final chain."""
        return self.chain.queries

    def get_status(self) -> NodeStatus:
        """Return where this node stands."""
        return build_status(self)

    def get_net_info(self) -> NetInfo:
        """Return listen addresses and peers."""
        return build_net_info(self)

    def get_consensus_info(self) -> ConsensusInfo:
        """Return a look into consensus."""
        return build_consensus_info(self)

    # Transactions

    async def wait_height(self, height: int) -> None:
        """Return once the final height is at least `height`."""
        await self.chain.wait_height(height)

    async def read_foreign(
        self, key: bytes, shards: Collection[ShardId], oldest: Height = 0
    ) -> Mapping[ShardId, ForeignValue]:
        """Return what a key holds in shards that are not followed, from peers."""
        return await self.foreign_state.read(key, shards, oldest)

    def submit_evidence(self, data: bytes) -> Verdict:
        """Check, keep and gossip evidence; return what it proves."""
        return self.chain.evidence.submit(data)

    def list_waiting_evidence(self) -> tuple[PooledEvidence, ...]:
        """Return the evidence that waits for a block."""
        return self.chain.evidence.pool.list_pieces()

    def submit_transaction(self, data: bytes) -> bytes:
        """Take a signed transaction, tell the peers, return its id."""
        return self.chain.submit(data)

    def get_mempool(self, limit: int) -> MempoolInfo:
        """Return totals and the oldest `limit` waiting transactions."""
        waiting = self.chain.mempool.list_waiting(limit)
        return MempoolInfo(
            count=len(self.chain.mempool),
            total_bytes=self.chain.mempool.get_bytes(),
            transactions=tuple(each.signed for each in waiting),
        )

    def get_pending(self, tx_id: bytes) -> SignedTransaction | None:
        """Return a transaction that waits in the mempool."""
        waiting = self.chain.mempool.get(tx_id)
        return None if waiting is None else waiting.signed

    def list_receipts(self, limit: int) -> tuple[SeenReceipt, ...]:
        """Return the newest receipts seen on topic `work`, newest first."""
        return self.feed.get_latest(limit)

    # Wallet

    async def send(self, recipient: bytes, amount: int, shard: int) -> SendResult:
        """Pay from this wallet, gathering funds from other shards."""
        with _explain_refusals():
            sent = await self.treasury.send(recipient, amount, shard)
        fee = estimate_transfer_fee(self.chain.spec.params)
        return SendResult(
            tx_ids=tuple(each.tx_id for each in sent),
            fee_limit=fee * len(sent),
            settled=tuple(
                SettledTransaction(
                    tx_id=each.tx_id,
                    shard=each.shard,
                    height=each.height,
                    ok=each.is_ok,
                )
                for each in sent
            ),
        )

    async def open_channel(
        self, payee: bytes, deposit: int, unit_price: int | None
    ) -> OpenResult:
        """Open a channel to a registered provider in its home shard."""
        registration = self.queries.market.get_registration(payee)
        if registration is None or registration.status is not RegistrationStatus.ACTIVE:
            raise NotFound("no active provider has this address", param="payee")
        self._require_no_channel(payee, registration.home)
        opening = self.pool.build_opening(registration, deposit, unit_price)
        payload = OpenChannels((opening,))
        with _explain_refusals():
            done = await self.treasury.execute(registration.home, payload, deposit)
        found = self.queries.get_transaction(done.tx_id)
        assert found is not None  # `execute` returns when it is final
        channel_id = compute_channel_id(
            self.chain.chain_id,
            registration.home,
            self.treasury.address,
            payee,
            opening.signer,
            found.signed.transaction.nonce,
            0,
        )
        return OpenResult(
            channel_id=channel_id, shard=registration.home, tx_ids=(done.tx_id,)
        )

    def _require_no_channel(self, payee: bytes, shard: ShardId) -> None:
        """Find out before funds are moved for it and a fee is paid."""
        open_one = self.queries.market.find_channel(self.treasury.address, payee, shard)
        if open_one is not None:
            raise TransactionRejected(
                f"channel 0x{open_one.channel_id.hex()} to this provider is open: "
                "close it first, or pay through it",
                reason="channel_exists",
            )

    async def close_channel(self, channel_id: bytes) -> SendResult:
        """Close as payee; as payer request the close, or withdraw once it is due."""
        channel = self.queries.market.get_channel(channel_id)
        address = self.treasury.address
        if (
            channel is None
            or address not in (channel.payer, channel.payee)
            or channel.status is ChannelStatus.CLOSED
        ):
            raise NotFound("no open channel of this wallet has this id")
        payload = self._build_close(channel)
        with _explain_refusals():
            done = await self.treasury.execute(channel.shard, payload)
        fee = estimate_fee(self.chain.spec.params, payload)
        return SendResult(tx_ids=(done.tx_id,), fee_limit=fee)

    def _build_close(self, channel: Channel) -> Close | RequestClose | Withdraw:
        if self.treasury.address == channel.payee:
            return self.book.build_close(channel)
        if channel.status is ChannelStatus.OPEN:
            return RequestClose(channel.channel_id)
        if self.chain.height < channel.close_height:
            raise TransactionRejected(
                f"the payee may settle until block {channel.close_height}; what is "
                f"left comes back by itself then (now: {self.chain.height})",
                reason="grace_window",
            )
        return Withdraw(channel.channel_id)

    async def stake(self, amount: int) -> SendResult:
        """Put atoms behind this node's validator key."""
        with _explain_refusals():
            return self._describe_sent(await self.staking.stake(amount))

    async def unstake(self, amount: int | None) -> SendResult:
        """Take atoms, or all of them, out of this account's stake."""
        with _explain_refusals():
            return self._describe_sent(await self.staking.unstake(amount))

    async def reshard(self, change: Change) -> SendResult:
        """Propose a change of the layout, in this account's name."""
        with _explain_refusals():
            done = await self.treasury.execute(ROOT_SHARD, Reshard(change))
            return self._describe_sent(done)

    async def vote_reshard(self, number: int) -> SendResult:
        """Approve a proposal to change the layout."""
        with _explain_refusals():
            done = await self.treasury.execute(ROOT_SHARD, ReshardVote(number))
            return self._describe_sent(done)

    def _describe_sent(self, done: Outcome) -> SendResult:
        found = self.queries.get_transaction(done.tx_id)
        assert found is not None  # it is final, for there is an outcome
        fee_limit = found.signed.transaction.fee_limit
        return SendResult(tx_ids=(done.tx_id,), fee_limit=fee_limit)

    def list_own_channels(self) -> tuple[OwnChannel, ...]:
        """Return the wallet's channels, open ones first."""
        page = self.queries.market.list_channels(self.treasury.address, limit=100)
        channels = [self._describe_channel(channel) for channel in page.items]
        return tuple(
            sorted(channels, key=lambda own: own.channel.status is ChannelStatus.CLOSED)
        )

    def _describe_channel(self, channel: Channel) -> OwnChannel:
        is_payer = channel.payer == self.treasury.address
        promised = (
            self.pool.get_promised(channel.channel_id)
            if is_payer
            else self.book.get_total(channel.channel_id)
        )
        return OwnChannel(
            channel=channel,
            role="payer" if is_payer else "payee",
            promised=max(promised, channel.settled),
            reserved=self.pool.get_reserved(channel.channel_id),
            blocked=""
            if channel.status is ChannelStatus.OPEN
            else "it is closing"
            if channel.status is ChannelStatus.CLOSING
            else "it is closed",
        )

    # Inference

    def list_models(self) -> tuple[ServedModel, ...]:
        """Return the models of the chain, servable ones first."""
        models = []
        for record in self.queries.market.list_models():
            reason = ""
            context = 0
            if self.gateway is None:
                reason = "this node is no gateway"
            elif self.gateway.model_id != record.model_id:
                reason = "this gateway has no worker for it"
            else:
                context = self.gateway.worker.info.max_positions
                try:
                    self.gateway.get_route(record.name)
                except RequestRefused as error:
                    reason = str(error)
            models.append(
                ServedModel(
                    model_id=record.model_id,
                    name=record.name,
                    created_ms=self.genesis.time_ms,
                    layers=record.layers,
                    context_length=context,
                    servable=not reason,
                    reason=reason,
                )
            )
        return tuple(sorted(models, key=lambda model: not model.servable))

    def get_route(self, model: str) -> tuple[RouteHop, ...]:
        """Return the route that a request would take now."""
        return self._require_gateway().get_route(model)

    def complete(
        self, request: CompletionRequest
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Run a session; closing the generator early ends it."""
        return self._require_gateway().complete(request)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Encode texts; see `p2pchain.api.backend.Backend.embed`."""
        return await self._require_gateway().embed(request)

    def _require_gateway(self) -> Gateway:
        if self.gateway is None:
            raise UnknownModel(
                "this node serves no models; ask a node that was started with --gateway"
            )
        return self.gateway


@contextmanager
def _explain_refusals() -> Iterator[None]:
    """Turn what hinders a transaction of ours into what a caller is told."""
    try:
        yield
    except wallet_errors.InsufficientFunds as error:
        raise InsufficientFunds(str(error)) from error
    except (StakeRefused, TransactionFailed) as error:
        raise TransactionRejected(str(error), reason=error.code) from error

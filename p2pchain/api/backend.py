"""
What the api needs of a node, and nothing else.

The node implements `Backend`; the api's tests bring a small one of their own.  Every
method and property is used on the trio thread (p2pchain/api/bridge.py carries requests
over), so an implementation needs no locks.  Methods without `async` answer within
about a millisecond: they read memory or a few keys of the store.

Refusals are the errors of p2pchain/api/errors.py (marked "Raises" below), or any
`primitives.errors.RemoteError` of chain and wallet, whose text the caller is shown.
"""

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from inference.sampling import ChatMessage, SamplingParams, TokenLogprob

if TYPE_CHECKING:
    from chain.contracts.channel import Channel
    from chain.contracts.proof import Receipt
    from chain.evidence import Verdict
    from chain.evidence_pool import PooledEvidence
    from chain.foreign_state import ForeignValue
    from chain.proposal import Change
    from chain.queries import Queries
    from chain.stake import Stake
    from chain.transaction import SignedTransaction
    from genesis.genesis import Genesis


class StageState(StrEnum):
    """Life of a worker that holds layers."""

    STARTING = "STARTING"
    LOADING = "LOADING"
    TESTING = "TESTING"
    READY = "READY"
    """Loaded, and a forward pass of the self-test gave the right shape and numbers."""
    FAILED = "FAILED"
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """One worker process of this node."""

    role: str
    """"stage" (holds layers) or "requester" (embedding, head, sampler)."""
    model_id: bytes
    start: int
    """First layer held; start == end for a requester."""
    end: int
    state: StageState
    pid: int | None = None
    detail: str = ""
    """Why it failed, or what it is doing."""
    sessions: int = 0
    """Sessions with a cache in it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStatus:
    """The running epoch: that of the next block."""

    number: int
    first_height: int
    last_height: int
    """Its end, at which the validators may change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorStatus:
    """This node's validator key, and what it counts for."""

    public_key: bytes
    """Compressed BLS12-381 G1 point, 48 bytes."""
    index: int | None
    """Place in the running epoch's set; None when the key is not in it."""
    power: int
    total_power: int
    """Of the running epoch's set."""
    next_power: int
    """In the next epoch's set, 0 when the key is not in it."""
    from_epoch: int | None
    """First epoch, the running one or later, in which it votes; None: in none.
    Beyond the next one it is a plan."""
    until_epoch: int | None
    """Last epoch in which it votes, when it is about to leave."""
    stake: "Stake | None"
    is_voting: bool
    mute_reason: str
    """Why it must not vote, such as a lost log of votes; empty when it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSyncStatus:
    """A state that is being taken from peers."""

    height: int
    """Of the snapshot's block."""
    parts: int
    parts_done: int
    bytes: int
    bytes_done: int
    bytes_per_s: int
    eta_s: int | None
    """Seconds to go at this rate; None while nothing comes."""
    peers: int
    """That are asked right now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSyncStatus:
    """How far the shard is that the node begins to follow."""

    shard: int
    base_height: int
    """Of the boundary whose state is taken."""
    parts: int
    parts_done: int
    bytes: int
    bytes_done: int
    done_height: int
    """Up to which the shard's chunks since then were executed."""
    eta_s: int | None
    """Seconds to go at this rate; None while that cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsStatus:
    """Weights that are being taken from peers."""

    model: str
    """Its name on the chain."""
    parts: int
    parts_done: int
    bytes: int
    bytes_done: int
    bytes_per_s: int
    eta_s: int | None
    """Seconds to go at this rate; None while nothing comes."""
    peers: int
    """That are asked right now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """Where this node stands now."""

    name: str
    version: str
    network: str
    chain_id: bytes
    node_id: bytes
    """Ed25519 key that names the node on the network."""
    address: bytes
    """Account of this node's wallet."""
    listen: tuple[str, ...]
    """Where peers reach it, "p2p://hex@host:port"."""
    height: int
    """Last final block."""
    block_hash: bytes
    time_ms: int
    """Header time of that block."""
    epoch: EpochStatus
    view: int
    """View that consensus is in."""
    syncing: bool
    """True while peers are known to be ahead of us by more than one block."""
    best_known_height: int
    """Highest final height any peer told us of."""
    first_height: int
    """Where this node's history begins: 0, or at the snapshot that it began with."""
    state_sync: StateSyncStatus | None
    """The snapshot that is being fetched, if one is."""
    shard_sync: ShardSyncStatus | None
    """The shard that is being taken on, if one is."""
    weights: WeightsStatus | None = None
    """The weights that are being fetched, if some are."""
    peers: int
    mempool_transactions: int
    mempool_bytes: int
    validator: ValidatorStatus | None
    """None for a node that was started without a validator key."""
    stages: tuple[StageStatus, ...]
    waiting_for: str
    """What must still happen before the node is READY; empty when it is: workers
    loaded and self-tested, blocks final, not behind, and (gateway) a route there."""

    @property
    def ready(self) -> bool:
        """True when the node can do everything it is there for."""
        return not self.waiting_for


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """One live connection."""

    node_id: bytes
    address: str
    """host:port as we see it."""
    outbound: bool
    connected_ms: int
    """Milliseconds since the handshake ended."""
    rtt_us: int | None
    """Measured round trip; None until the first answer."""
    bytes_in: int
    bytes_out: int
    score: int
    """Misbehaviour points; 0 is clean."""
    height: int | None
    """Final height the peer last told us of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetInfo:
    """This node's place in the network."""

    node_id: bytes
    listen: tuple[str, ...]
    peers: tuple[PeerInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusInfo:
    """A look into the consensus core."""

    epoch: int
    view: int
    leader: int
    """Index of this view's leader."""
    index: int | None
    """Our own index; None while we only listen."""
    is_voting: bool
    mute_reason: str
    """Why a validator does not vote; empty when it does, or is none."""
    final_height: int
    final_view: int
    final_hash: bytes
    total_power: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MempoolInfo:
    """Transactions waiting for a block."""

    count: int
    total_bytes: int
    transactions: tuple["SignedTransaction", ...]
    """The oldest `limit` of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledTransaction:
    """A final transaction of the wallet, in whichever shard."""

    tx_id: bytes
    shard: int
    height: int
    ok: bool | None
    """None: it is in a shard that is not followed, and nobody showed what it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """Transactions that a wallet operation submitted, in order."""

    tx_ids: tuple[bytes, ...]
    """The last one does what was asked; earlier ones move funds between shards."""
    fee_limit: int
    """Most that all of them together can cost in fees."""
    settled: tuple[SettledTransaction, ...] = ()
    """What became of them, where it is known already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenResult:
    """A channel whose opening was submitted."""

    channel_id: bytes
    shard: int
    tx_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnChannel:
    """A channel this wallet pays from or is paid by, with what the chain cannot see."""

    channel: "Channel"
    role: str
    """"payer" or "payee"."""
    promised: int
    """Atoms promised off chain so far (best claim), at least `channel.settled`."""
    blocked: str = ""
    """Why no payment goes through it now; empty when it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenReceipt:
    """A forward pass that a provider announced on topic `work`."""

    receipt: "Receipt"
    seen_ms: int
    """Our clock when it came, milliseconds since the Unix epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHop:
    """One provider of a route."""

    name: str
    """The validator's genesis name, else the first 16 hex digits of its node key."""
    node_key: bytes
    provider: bytes
    """Account that registered; payee of the channel."""
    shard: int
    """Home shard of the registration, where the channel is."""
    start: int
    end: int
    input_price: int
    """Atoms per layer-token in prefill."""
    output_price: int
    """Atoms per layer-token in decode."""
    latency_us: int | None
    """Measured round trip to it; None when never measured."""
    measured_us: int
    """What it registered as its time per decode token for the range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model of the chain as this node sees it."""

    model_id: bytes
    name: str
    """What `model` in a request says; the hex model_id works too."""
    created_ms: int
    layers: int
    context_length: int
    """Most positions of prompt and answer together."""
    servable: bool
    """True when this node has a requester worker for it and a route exists."""
    reason: str = ""
    """Why it is not servable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A prompt with its sampling, checked by the api."""

    model: str
    """Name or hex id, as the caller gave it."""
    messages: tuple[ChatMessage, ...] = ()
    """A chat, to be put through the model's chat template; empty for a plain prompt."""
    prompt: str | tuple[int, ...] = ""
    """Plain text or token ids; used when there are no messages."""
    max_tokens: int | None = None
    """None: as many as the context holds."""
    sampling: SamplingParams
    """With seed and stop strings; its own `max_tokens` is to be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to be turned into vectors, checked by the api."""

    model: str
    """Name or hex id, as the caller gave it."""
    inputs: tuple[str | tuple[int, ...], ...]
    """Texts or token ids, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Texts as vectors."""

    vectors: tuple[bytes, ...]
    """In the order of the inputs; float32, little-endian."""
    prompt_tokens: int
    """Of all inputs together."""
    sessions: tuple[bytes, ...]
    """One per input."""
    price: int
    """Of all of them, in atoms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """First event: the route stands and the prompt fits."""

    session: bytes
    route: tuple[RouteHop, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Some more of the answer."""

    text: str
    """May be empty while a character is incomplete."""
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()
    """If asked for: of this token, then of the most likely ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HopReport:
    """What one hop of a finished session did and cost."""

    name: str
    node_key: bytes
    start: int
    end: int
    steps: int
    """Forward passes."""
    step_us: int
    """Median time of one decode step at the hop, as it reported."""
    price: int
    """Atoms paid to it in this session."""
    channel_id: bytes
    vouchers: int
    """Vouchers signed for it in this session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Last event of a complete answer."""

    reason: str
    """"stop" (end of sequence or a stop string) or "length"."""
    prompt_tokens: int
    completion_tokens: int
    lap_us: int = 0
    """Median time of one decode step through all hops and back, as the client saw it;
    0 for an answer without decode steps."""
    hops: tuple[HopReport, ...] = field(default=())


CompletionEvent = Started | Delta | Finished


class Backend(Protocol):
    """A node, as the api sees it."""

    @property
    def genesis(self) -> "Genesis":
        """The genesis this node runs on."""

    @property
    def queries(self) -> "Queries":
        """Reads over the final chain."""

    def get_status(self) -> NodeStatus:
        """Return where this node stands."""

    def get_net_info(self) -> NetInfo:
        """Return listen addresses and peers."""

    def get_consensus_info(self) -> ConsensusInfo:
        """Return a look into the consensus core."""

    async def wait_height(self, height: int) -> None:
        """Return once the final height is at least `height`."""

    async def read_foreign(
        self, key: bytes, shards: Collection[int], oldest: int = 0
    ) -> "Mapping[int, ForeignValue]":
        """Return what a key holds in shards that are not followed, from peers.

        Every value is proven under a root of ours.  Shards of which no peer shows
        anything within some seconds are left out.

        Args:
            key: The same in all of them.
            shards: Of the layout.
            oldest: No older states than the one after this block.
        """

    def submit_transaction(self, data: bytes) -> bytes:
        """Check and take a signed transaction, gossip it, return its id.

        Raises:
            DecodeError: Not the canonical bytes of a signed transaction.
            RemoteError: Refused by the mempool; the type and text say why.
        """

    def submit_evidence(self, data: bytes) -> "Verdict":
        """Check and take encoded evidence, gossip it, return what it proves.

        Raises:
            RemoteError: It proves nothing.
            UselessEvidence: It would convict nobody now.
        """

    def list_waiting_evidence(self) -> "tuple[PooledEvidence, ...]":
        """Return the evidence that waits for a block, the oldest first."""

    def get_mempool(self, limit: int) -> MempoolInfo:
        """Return totals and the oldest `limit` waiting transactions."""

    def get_pending(self, tx_id: bytes) -> "SignedTransaction | None":
        """Return a transaction that waits in the mempool."""

    def list_receipts(self, limit: int) -> tuple[SeenReceipt, ...]:
        """Return the newest receipts seen on topic `work`, newest first."""

    async def send(self, recipient: bytes, amount: int, shard: int) -> SendResult:
        """Pay `amount` atoms from this wallet, gathering funds from other shards.

        Returns when the last transaction was accepted by the mempool.

        Raises:
            InsufficientFunds: All shards together hold too little.
        """

    async def open_channel(
        self, payee: bytes, deposit: int, unit_price: int | None
    ) -> OpenResult:
        """Open a channel to a registered provider in its home shard.

        Args:
            payee: Account of the provider.
            deposit: Atoms to lock.
            unit_price: Atoms per unit; None derives it from the registration.

        Raises:
            NotFound: No such provider.
            InsufficientFunds: All shards together hold too little.
        """

    async def close_channel(self, channel_id: bytes) -> SendResult:
        """Close as payee, or request the close as payer.

        Raises:
            NotFound: No open channel of this wallet has this id.
        """

    async def stake(self, amount: int) -> SendResult:
        """Put `amount` atoms of this wallet behind the node's validator key.

        0 brings a stake back that was put down for missing votes.

        Raises:
            InsufficientFunds: All shards together hold too little.
            TransactionRejected: This node does not vote, or the rules refuse it.
        """

    async def unstake(self, amount: int | None) -> SendResult:
        """Take atoms out of this wallet's stake; None: all that is bonded.

        Raises:
            TransactionRejected: Nothing is bonded, or the rules refuse it.
        """

    async def reshard(self, change: "Change") -> SendResult:
        """Propose a change of the layout; needs a stake of this wallet.

        Raises:
            TransactionRejected: The rules refuse it.
        """

    async def vote_reshard(self, number: int) -> SendResult:
        """Approve a proposal to change the layout.

        Raises:
            TransactionRejected: The rules refuse it.
        """

    def list_own_channels(self) -> tuple[OwnChannel, ...]:
        """Return the wallet's channels, open ones first."""

    def list_models(self) -> tuple[ServedModel, ...]:
        """Return the models of the chain, servable ones first."""

    def get_route(self, model: str) -> tuple[RouteHop, ...]:
        """Return the route a request would take now.

        Raises:
            UnknownModel: No model of that name or id.
            NoRoute: Some layers have no active, reachable provider.
        """

    def complete(
        self, request: CompletionRequest
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Run a session; closing the generator early ends it and pays what was used.

        Yields one `Started`, then `Delta`s, then one `Finished`.

        Raises:
            UnknownModel, PromptTooLong, NoRoute, InsufficientFunds, Overloaded:
                Before `Started`.
            StageLost: A hop died or broke the protocol in mid-answer.
        """

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Turn texts into vectors; every text is a session of one step, paid ahead.

        Raises:
            UnknownModel, Unsupported: No such model, or it does not do that.
            PromptTooLong, NoRoute, InsufficientFunds, Overloaded, StageLost: As for
                an answer; of several texts the first that fails.
        """

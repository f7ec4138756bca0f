"""What the api tells of a node: where it stands, its peers, workers and pools."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chain.ledger.stake import Stake
    from chain.records.transaction import SignedTransaction


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
    pages_kept: int = 0
    """Pages of kept beginnings that it has now."""
    kept_bytes: int = 0
    """What their outputs take in the node's memory, beside the worker's pages."""
    pages_found: int = 0
    """Pages that sessions began with, and that nobody computed for them."""
    pages_given: int = 0
    """Pages of kept beginnings that other providers have got of it."""
    pages_taken: int = 0
    """Those that it has got of others."""


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

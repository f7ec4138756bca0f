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
from typing import TYPE_CHECKING, Protocol

from p2pchain.api.completion import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    RouteHop,
    SeenReceipt,
    ServedModel,
)
from p2pchain.api.status import ConsensusInfo, MempoolInfo, NetInfo, NodeStatus
from p2pchain.api.wallet_results import OpenResult, OwnChannel, SendResult

if TYPE_CHECKING:
    from chain.queries.foreign_state import ForeignValue
    from chain.queries.queries import Queries
    from chain.records.proposal import Change
    from chain.records.transaction import SignedTransaction
    from chain.rewarding.evidence import Verdict
    from chain.tree.evidence_pool import PooledEvidence
    from genesis.genesis import Genesis


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

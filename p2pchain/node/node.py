"""
Assembly: the parts of one node, in one nursery.

    database, chain, network                      always
    consensus driver                              always; votes with --validator
    state sync                                    serves always, takes when far behind
    shard sync                                    takes and drops shards as wanted
    settlement, channels                          always
    stage worker, hop service                     with --host-layers
    requester worker, gateway                     with --gateway
    weights                                       serves what it has, takes with --model
    HTTP                                          always

A service either runs or raises, and what one raises ends the node.  Stopping goes the
other way round: answers end first and then HTTP, because they use everything else; then
the sessions that others have here end and are written down; then the network and
consensus stop; the database closes last.
"""

import errno
import json
import logging
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

import trio

from chain.queries.queries import Queries
from chain.records.registration import MAX_ADDRESSES
from consensus.participant import ParticipantConfig
from genesis.genesis import Genesis
from genesis.state import build_chain_spec
from network.endpoint import Endpoint
from network.errors import InvalidEndpoint, ListenFailed
from network.network import Network
from p2pchain.api.app import ApiSettings, build_app
from p2pchain.api.http_service import serve_http
from p2pchain.errors import ConfigError, PortInUse
from p2pchain.node.backend import NodeBackend
from p2pchain.node.chain.address_book import AddressBook
from p2pchain.node.chain.foreign_accounts import ForeignAccounts
from p2pchain.node.chain.foreign_packets import PacketExchange
from p2pchain.node.chain.foreign_state import StateExchange
from p2pchain.node.chain.service import ChainService
from p2pchain.node.chunks.service import ChunkService
from p2pchain.node.chunks.workers import ChunkWorkers, compute_default_workers
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.driver import ConsensusDriver
from p2pchain.node.home.config import Config
from p2pchain.node.home.home import Home
from p2pchain.node.hosting.hosting import Hosting, HostingPorts
from p2pchain.node.money.channel_pool import ChannelPool
from p2pchain.node.money.provider_book import ProviderBook
from p2pchain.node.money.settlement import Settlement
from p2pchain.node.money.staking import Staking
from p2pchain.node.money.treasury import Treasury
from p2pchain.node.state_sync.files import PartFiles
from p2pchain.node.state_sync.server import StateSyncServer
from p2pchain.node.state_sync.shard_sync import ShardSync
from p2pchain.node.state_sync.state_sync import Checkpoint, StateSync
from p2pchain.node.work_feed import WorkFeed
from p2pchain.version import VERSION
from primitives import bls
from primitives.bls import BlsSecretKey
from primitives.keys import SecretKey
from primitives.kv import KeyValueStore
from wallet.book import PayerBook
from wallet.files import write_atomically
from wallet.payer import derive_session_key

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKeys:
    """The secrets of one node."""

    account: SecretKey
    node: SecretKey
    validator: BlsSecretKey | None
    """None for a node that does not vote."""


class Node:
    """One node between start and stop."""

    def __init__(
        self,
        home: Home,
        config: Config,
        keys: NodeKeys,
        genesis: Genesis,
        kv: KeyValueStore,
    ) -> None:
        """Put the parts together; nothing runs yet.

        Raises:
            StoreError: The database is damaged or of another network.
            ConfigError, ModelError: The model or the layers cannot be served.
        """
        self._home = home
        self._config = config
        self._keys = keys
        self._genesis = genesis
        self.p2p_port, self.rpc_port = config.p2p_port, config.rpc_port
        """Those that it listens at, once it does."""
        spec = build_chain_spec(genesis)
        self._network = Network(node_key=keys.node, chain_id=spec.chain_id)
        self._hosting = Hosting(home, config, genesis)
        follow = self._hosting.build_follow(keys.validator)
        self._chain = ChainService(spec, kv, self._network, follow)
        self._workers = _build_workers(config)
        self._chain.tree.executor = self._workers
        self._bodies = BodyExchange(self._network, self._chain.tree)
        self._packets = PacketExchange(self._network, self._chain)
        self._foreign_state = StateExchange(self._network, self._chain.tree)
        self._chunks = ChunkService(
            chain=self._chain,
            bodies=self._bodies,
            network=self._network,
            params=genesis.params.consensus,
            scheme=bls,
            signer=keys.validator,
            wal_path=home.chunks,
        )
        self._driver = ConsensusDriver(
            config=ParticipantConfig(
                chain_id=spec.chain_id,
                params=genesis.params.consensus,
                scheme=bls,
                signer=keys.validator,
            ),
            application=self._chain,
            network=self._network,
            wal_path=home.votes,
            on_place=self._chunks.on_place,
            bodies=self._bodies,
        )
        self._snapshots = StateSyncServer(self._network, self._chain, kv)
        self._state_sync = self._build_state_sync()
        self._shard_sync = self._build_shard_sync()
        foreign = ForeignAccounts(
            self._network,
            self._chain,
            self._bodies,
            self._foreign_state,
            self._chunks.find_produced,
        )
        self._treasury = Treasury(keys.account, self._chain, foreign)
        self._staking = Staking(
            config.name, keys.validator, self._treasury, self._chain
        )
        self._settlement = Settlement(self._chain, self._treasury)
        self._book = ProviderBook(
            kv,
            spec.chain_id,
            keys.account.public_key,
            self._chain.queries.market.get_channel,
            self._settlement.notice,
        )
        self._feed = WorkFeed(
            self._network, spec.chain_id, _RegisteredKeys(self._chain).__contains__
        )
        session_key = derive_session_key(keys.account)
        payer_book = PayerBook(kv, session_key)
        self._pool = ChannelPool(self._chain, self._treasury, payer_book, session_key)
        self._advertised = _parse_advertised(config, keys.node.public_key)
        self._addresses = AddressBook(
            self._chain.queries,
            self._network,
            is_validator=keys.validator is not None,
        )
        self._addresses.refresh()
        self._chain.listen(self._addresses.on_final)
        self._backend: NodeBackend | None = None
        self._hosting.open(
            HostingPorts(
                chain=self._chain,
                network=self._network,
                treasury=self._treasury,
                book=self._book,
                publish=self._feed.publish,
                pool=self._pool,
                payer_book=payer_book,
                account=keys.account,
                node_key=keys.node,
                is_behind=self._is_behind,
                on_ready=self._on_hosting,
            )
        )
        for peer in config.peers:
            self._network.add_endpoint(_parse_peer(peer), persistent=True)

    @property
    def has_state(self) -> bool:
        """Whether it stopped because a state came that is to replace its own."""
        return self._state_sync.ready.is_set()

    async def run(self, parent_fd: int | None = None) -> None:
        """Run until SIGTERM, SIGINT or the end of `parent_fd`, then stop in order.

        It also stops when a state has come, which needs the database for itself.

        Raises:
            PortInUse: Another program listens where we should.
        """
        stop = trio.Event()
        async with trio.open_nursery() as services:
            services.start_soon(_watch_signals, stop)
            if parent_fd is not None:
                services.start_soon(_watch_parent, parent_fd, stop)
            endpoints = await self._listen(services)
            services.start_soon(self._driver.run)
            services.start_soon(self._chain.gossip.run)
            services.start_soon(self._chunks.run)
            services.start_soon(self._packets.run)
            services.start_soon(self._state_sync.run)
            services.start_soon(_forward, self._state_sync.ready, stop)
            services.start_soon(self._shard_sync.run)
            services.start_soon(self._pool.run)
            # Also without layers: an earlier start may have left claims to settle.
            services.start_soon(self._settlement.run, self._book)
            self._hosting.start(services, endpoints)
            await self._serve(endpoints, stop)
            await self._hosting.drain_provider()
            services.cancel_scope.cancel()
        self._book.flush()
        self._pool.flush()
        self._snapshots.close()
        self._workers.close()
        self._home.runtime.unlink(missing_ok=True)
        log.info("stopped at height %d", self._chain.height)

    def _on_hosting(self) -> None:
        """Let others know of what works with a model since now."""
        if self._backend is not None:
            self._backend.provider = self._hosting.provider
            self._backend.gateway = self._hosting.gateway

    async def _listen(self, services: trio.Nursery) -> tuple[Endpoint, ...]:
        """Return where others reach us, once they do."""
        host, port = self._config.p2p_host, self._config.p2p_port
        try:
            endpoint: Endpoint = await services.start(self._network.run, host, port)
        except ListenFailed as error:
            if getattr(error.__cause__, "errno", None) == errno.EADDRINUSE:
                raise PortInUse(f"{host}:{port}", "--p2p-port") from error
            raise
        self.p2p_port = endpoint.port
        return self._advertised or (endpoint,)

    async def _serve(self, endpoints: tuple[Endpoint, ...], stop: trio.Event) -> None:
        """Offer HTTP until `stop`; returns when it has drained."""
        backend = self._backend = self._build_backend(endpoints)
        settings = ApiSettings(token=self._home.load_api_token(), version=VERSION)
        async with trio.open_nursery() as nursery:
            port = await nursery.start(
                serve_http,
                lambda bridge: build_app(backend, settings, bridge),
                self._config.rpc_host,
                self._config.rpc_port,
            )
            self._write_runtime(endpoints[0], f"http://{self._config.rpc_host}:{port}")
            await stop.wait()
            log.info("stopping")
            await self._hosting.drain_gateway()
            nursery.cancel_scope.cancel()

    def _write_runtime(self, endpoint: Endpoint, rpc: str) -> None:
        """Say where we are, for the command line and whoever started us."""
        self.rpc_port = int(rpc.rpartition(":")[2])
        document = {"pid": os.getpid(), "rpc": rpc, "p2p": str(endpoint)}
        write_atomically(self._home.runtime, json.dumps(document) + "\n", 0o644)
        log.info("%s listens: rpc %s, p2p %s", self._config.name, rpc, endpoint)

    def _build_backend(self, endpoints: tuple[Endpoint, ...]) -> NodeBackend:
        return NodeBackend(
            config=self._config,
            genesis=self._genesis,
            endpoints=endpoints,
            network=self._network,
            chain=self._chain,
            driver=self._driver,
            treasury=self._treasury,
            pool=self._pool,
            book=self._book,
            feed=self._feed,
            provider=self._hosting.provider,
            gateway=self._hosting.gateway,
            staking=self._staking,
            state_sync=self._state_sync,
            shard_sync=self._shard_sync,
            foreign_state=self._foreign_state,
            weights=self._hosting.weights,
            model_host=self._hosting.model_host,
        )

    def _build_state_sync(self) -> StateSync:
        config = self._config
        point = config.trusted_epoch
        is_replaying = config.sync == "replay"
        state_sync = StateSync(
            self._network,
            self._chain,
            PartFiles(self._home.state_sync),
            after_epochs=None if is_replaying else config.snapshot_after_epochs,
            get_best_height=lambda: self._driver.best_height,
            checkpoint=None if point is None else Checkpoint(*point),
        )
        self._driver.hold_ranges(lambda: state_sync.is_holding)
        return state_sync

    def _build_shard_sync(self) -> ShardSync:
        tree = self._chain.tree
        return ShardSync(
            self._network,
            self._chain,
            self._bodies,
            self._packets,
            PartFiles(self._home.shard_sync),
            is_behind=self._is_behind,
            get_wanted=lambda: tree.wanted,
            get_own=lambda: tree.follow.choose(tree.layout),
        )

    def _is_behind(self) -> bool:
        """Tell whether blocks are still to be caught up with."""
        return self._state_sync.is_holding or self._driver.status.is_catching_up


class _RegisteredKeys:
    """The node keys of all registrations, as of the last final block."""

    def __init__(self, chain: ChainService) -> None:
        self._queries: Queries = chain.queries
        self._height = -1
        self._keys: frozenset[bytes] = frozenset()

    def __contains__(self, node_key: bytes) -> bool:
        if self._queries.height != self._height:
            self._height = self._queries.height
            self._keys = frozenset(
                registration.node_key
                for registration in self._queries.market.list_registrations()
            )
        return node_key in self._keys


def _parse_peer(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except InvalidEndpoint as error:
        raise ConfigError(f"peers: {text!r} is {error}") from error


def _parse_advertised(config: Config, node_key: bytes) -> tuple[Endpoint, ...]:
    """Return the endpoints to let others know; none for the bound one.

    Raises:
        ConfigError: One is malformed or of another node, or there must be one.
    """
    if config.layers and config.p2p_host in ("0.0.0.0", "::") and not config.advertise:
        raise ConfigError(
            f"advertise: with p2p_host {config.p2p_host} nobody can tell where "
            "customers reach this node; name its endpoint there"
        )
    if len(config.advertise) > MAX_ADDRESSES:
        raise ConfigError(f"advertise: at most {MAX_ADDRESSES} endpoints")
    endpoints = []
    for text in config.advertise:
        try:
            endpoint = Endpoint.parse(text)
        except InvalidEndpoint as error:
            raise ConfigError(f"advertise: {text!r} is {error}") from error
        if endpoint.peer_id != node_key:
            raise ConfigError(
                f"advertise: {text!r} names another node; this one's key is "
                f"{node_key.hex()}"
            )
        endpoints.append(endpoint)
    return tuple(endpoints)


async def _forward(first: trio.Event, second: trio.Event) -> None:
    await first.wait()
    second.set()


def _build_workers(config: Config) -> ChunkWorkers:
    count = config.chunk_workers
    if count < 0:
        count = compute_default_workers()
    return ChunkWorkers(count, bls=config.bls)


async def _watch_signals(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()


async def _watch_parent(descriptor: int, stop: trio.Event) -> None:
    """Stop when whoever started us ends: the pipe of which we hold one end closes."""
    with suppress(OSError):
        await trio.lowlevel.wait_readable(descriptor)
    stop.set()

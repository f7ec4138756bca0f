"""
What a node does with a model: its weights, a provider, a gateway.

    at the start       a folder has the model, and the layers are given
    while it runs      the chain names the model, or the layers are still to be chosen;
                       see model_host.py

What a folder has is served to others in parts; see p2pchain/node/weights.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio
from msgspec.structs import replace

from chain.records.proof import Receipt
from chain.tree.following import Follow, Layers
from genesis.genesis import Genesis
from inference.certification.certify import CERTIFICATES_FOLDER, require_certificate
from inference.device.precision import Precision
from inference.errors import ModelError
from inference.protocol.codec import CODEC_OF_NAME
from inference.session.shared_payer import SharedPayer
from inference.weights.model_info import Model, load_model
from inference.weights.pieces_folder import PARTS_FOLDER
from inference.weights.pieces_store import PieceStore
from inference.worker.requester_worker import RequesterWorker
from inference.worker.stage_worker import StageWorker
from network.endpoint import Endpoint
from network.network import Network
from p2pchain.errors import ConfigError
from p2pchain.node.chain.service import ChainService
from p2pchain.node.gateway.gateway import Gateway
from p2pchain.node.home.config import AUTO, Config
from p2pchain.node.home.home import Home
from p2pchain.node.home.initialise import get_model_name, resolve_model_dir
from p2pchain.node.hosting.model_host import ModelHost, Ready, find_model, load_choice
from p2pchain.node.hosting.provider import Provider
from p2pchain.node.money.channel_pool import ChannelPool
from p2pchain.node.money.provider_book import ProviderBook
from p2pchain.node.money.treasury import Treasury
from p2pchain.node.weights.fetcher import WeightsFetcher
from p2pchain.node.weights.server import WeightsServer
from primitives.bls import BlsSecretKey
from primitives.keys import SecretKey
from wallet.book import PayerBook
from wallet.payer import derive_session_key

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostingPorts:
    """The parts of a node that work with a model."""

    chain: ChainService
    network: Network
    treasury: Treasury
    book: ProviderBook
    """Keeps customers' payments."""
    publish: Callable[[Receipt], None]
    """Tells the world about a receipt."""
    pool: ChannelPool
    payer_book: PayerBook
    account: SecretKey
    node_key: SecretKey
    is_behind: Callable[[], bool]
    """Tells whether blocks are still to be caught up with."""
    on_ready: Callable[[], None]
    """Called when provider and gateway are there that were not at the start."""


class Hosting:
    """What one node does with a model."""

    provider: Provider | None = None
    gateway: Gateway | None = None
    model_host: ModelHost | None = None
    """Of a node that gets its model, or its layers, while it runs."""
    weights: WeightsFetcher
    _ports: HostingPorts

    def __init__(self, home: Home, config: Config, genesis: Genesis) -> None:
        """Read the model that a folder has.

        Raises:
            ConfigError, ModelError: It cannot be served.
        """
        self._home = home
        self._config = config
        self._genesis = genesis
        self._model = self._load_model()

    def open(self, ports: HostingPorts) -> None:
        """Put together what there is; nothing runs yet.

        Raises:
            ConfigError: The chain has no such model, or the model no such layers.
        """
        self._ports = ports
        model = self._model
        if model is not None:
            model = self._model = self._find_name(model)
        self.weights = self._build_weights(model)
        is_open = AUTO in (self._config.layers, self._config.precision)
        if self._config.chain_model is not None or is_open:
            self.model_host = self._build_model_host(model)
        elif model is not None:
            folder = resolve_model_dir(self._config.model)
            precision = Precision(self._config.precision)
            layers = self._config.layer_range
            self._build_services(Ready(model, folder, layers, None, precision))

    def start(self, services: trio.Nursery, endpoints: tuple[Endpoint, ...]) -> None:
        """Run what there is, and get the rest.

        Args:
            services: Where.
            endpoints: Where customers reach us.
        """
        if self.model_host is not None:
            services.start_soon(self._host, self.model_host, services, endpoints)
        self._start_services(services, endpoints)

    async def drain_gateway(self) -> None:
        """Let answers end."""
        if self.gateway is not None:
            await self.gateway.drain()

    async def drain_provider(self) -> None:
        """Let the sessions of others end."""
        if self.provider is not None:
            await self.provider.drain()

    def build_follow(self, validator: BlsSecretKey | None) -> Follow:
        """Return what to follow: what is asked for, and the shards we work with.

        Of a model that only the chain has, and of layers that are still to be chosen,
        `ModelHost` says so later.
        """
        config, name = self._config, self._config.chain_model
        layers: tuple[Layers, ...] = ()
        if self._works_with_model:
            record = find_model(self._genesis.models, name or "", self._model)
            chosen = config.layer_range
            if record is not None and config.layers == AUTO:
                chosen = load_choice(self._home.weights, record)
            if record is not None and config.gateway:
                chosen = 0, record.layers
            if record is not None and chosen is not None:
                layers = (Layers(record.model_id, *chosen),)
        custodian = None
        if config.custodian and validator is not None:
            custodian = validator.public_key
        return Follow(config.followed_shards, layers, custodian)

    async def _host(
        self,
        model_host: ModelHost,
        services: trio.Nursery,
        endpoints: tuple[Endpoint, ...],
    ) -> None:
        """Begin to host what was not here, or not chosen, at the start."""
        try:
            self._build_services(await model_host.prepare())
        except (ConfigError, ModelError) as error:
            log.error("no layers are served: %s", error)
            model_host.stage = f"a model that can be served: {error}"
            return
        self._ports.on_ready()
        self._start_services(services, endpoints)
        watch = model_host.build_watch()
        if watch is not None:
            services.start_soon(watch.run)

    def _start_services(
        self, services: trio.Nursery, endpoints: tuple[Endpoint, ...]
    ) -> None:
        if self.provider is not None:
            services.start_soon(self.provider.run, endpoints)
        if self.gateway is not None:
            services.start_soon(self.gateway.run)

    def _load_model(self) -> Model | None:
        """Return the model that a worker of ours needs, if a folder has it."""
        if not self._works_with_model or self._config.chain_model is not None:
            return None
        directory = resolve_model_dir(self._config.model)
        self._certify(directory)
        return load_model(directory, get_model_name(self._config.model))

    def _certify(self, directory: Path) -> None:
        """Refuse a model that cannot be divided exactly; raises ModelError."""
        if not self._config.null_layers:
            require_certificate(directory, self._home.path / CERTIFICATES_FOLDER)

    def _find_name(self, model: Model) -> Model:
        """Return a model under the name that the chain has for it.

        Raises:
            ConfigError: The chain has no such model.
        """
        roots = (model.info.weights_root, model.info.tokenizer_hash)
        models = self._ports.chain.queries.market.list_models()
        for record in models:
            if (record.weights_root, record.tokenizer_hash) == roots:
                # The folder may be called anything; the chain has a name for it.
                return replace(model, info=replace(model.info, name=record.name))
        raise ConfigError(
            f"the model {self._config.model} is none of this network's "
            f"({', '.join(record.name for record in models) or 'it has none'}): its "
            "weights or its tokenizer differ"
        )

    @property
    def _works_with_model(self) -> bool:
        return bool(self._config.layers) or self._config.gateway

    def _build_weights(self, model: Model | None) -> WeightsFetcher:
        """Serve what is here, and be ready to take what is not."""
        folder = self._home.weights
        limit_bytes = self._config.weights_cache_mb * 10**6
        store = PieceStore(folder / PARTS_FOLDER, limit_bytes=limit_bytes)
        server = WeightsServer(self._ports.network, store)
        if model is not None:
            directory = resolve_model_dir(self._config.model)
            server.add(model.info.model_id, model.outline, directory)
        queries = self._ports.chain.queries

        def list_providers(model_id: bytes) -> list[bytes]:
            registrations = queries.market.list_registrations()
            return [r.node_key for r in registrations if r.model_id == model_id]

        return WeightsFetcher(
            self._ports.network, store, folder, server, list_providers
        )

    def _build_model_host(self, model: Model | None) -> ModelHost | None:
        config = self._config
        if not self._works_with_model:
            return None
        local = None if model is None else resolve_model_dir(config.model)
        layers = AUTO if config.layers == AUTO else config.layer_range
        return ModelHost(
            chain=self._ports.chain,
            weights=self.weights,
            folder=self._home.weights,
            setting=config.chain_model or "",
            layers=layers,
            with_ends=config.gateway,
            local=model,
            local_folder=local,
            certify=self._certify,
            account=self._ports.account.public_key,
            is_behind=self._ports.is_behind,
            precision=config.precision,
            device=config.device,
        )

    def _build_services(self, ready: Ready) -> None:
        """Build what works with the model: a provider, a gateway, or both."""
        self.provider = self._build_provider(ready)
        self.gateway = self._build_gateway(ready)

    def _build_provider(self, ready: Ready) -> Provider | None:
        model, layers = ready.model, ready.layers
        if layers is None:
            return None
        if layers[1] > model.info.layers:
            raise ConfigError(
                f"layers {self._config.layers}: {model.info.name} has "
                f"{model.info.layers}"
            )
        worker = StageWorker(
            ready.directory,
            model,
            layers,
            threads=self._config.torch_threads,
            precision=ready.precision,
            device=self._config.device,
            null=self._config.null_layers,
        )
        worker.prepare = ready.prepare
        if self._config.null_layers:
            log.warning("null_layers: answers are nonsense, and sold as real ones")
        return Provider(
            worker=worker,
            prices=(self._config.input_price, self._config.output_price),
            node_key=self._ports.node_key,
            chain=self._ports.chain,
            treasury=self._ports.treasury,
            network=self._ports.network,
            book=self._ports.book,
            publish=self._ports.publish,
        )

    def _build_gateway(self, ready: Ready) -> Gateway | None:
        if not self._config.gateway:
            return None
        worker = RequesterWorker(
            ready.directory,
            ready.model,
            threads=self._config.torch_threads,
            precision=ready.precision,
            device=self._config.device,
            draft_model=Path(self._config.draft_model).expanduser()
            if self._config.draft_model
            else None,
        )
        worker.prepare = ready.prepare
        return Gateway(
            worker=worker,
            session_key=derive_session_key(self._ports.account),
            chain=self._ports.chain,
            treasury=self._ports.treasury,
            network=self._ports.network,
            pool=self._ports.pool,
            payer=SharedPayer(self._ports.payer_book),
            names=_get_names(self._genesis),
            precision=ready.precision,
            codec=CODEC_OF_NAME[self._config.activations],
        )


def _get_names(genesis: Genesis) -> Mapping[bytes, str]:
    return {validator.account: validator.name for validator in genesis.validators}

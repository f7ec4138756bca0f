"""New networks and homes: layers, ports, permissions, and nothing overwritten."""

import os
import socket
import stat
from collections import Counter
from pathlib import Path

import pytest

from chain.records.model import compute_model_id
from genesis.errors import CorruptGenesis
from genesis.files import load_genesis
from genesis.genesis import compute_chain_id
from genesis.presets import DEVNET_PARAMS
from genesis.state import build_chain_spec
from inference.weights.model_info import ModelInfo
from network.endpoint import Endpoint
from p2pchain.errors import ConfigError, HomeError
from p2pchain.node.home import initialise
from p2pchain.node.home.config import Config
from p2pchain.node.home.home import Home
from p2pchain.node.home.initialise import (
    GATEWAY,
    MAX_VALIDATORS,
    create_home,
    create_network,
    resolve_model_dir,
)
from p2pchain.node.run import load_keys
from wallet.errors import WrongPassphrase
from wallet.keystore import ScryptCost

PASSPHRASE = "not a secret"
TIME_MS = 1_700_000_000_000
CHEAP = ScryptCost(n=2)
"""Of keystores that guard nothing and are opened by the hundred."""


def build_info(layers: int) -> ModelInfo:
    return ModelInfo(
        name="toy",
        architecture="LlamaForCausalLM",
        layers=layers,
        hidden_size=16,
        vocab_size=100,
        max_positions=100,
        dtype="float32",
        weights_root=bytes([1]) * 32,
        tokenizer_hash=bytes([2]) * 32,
    )


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are made here, and none has to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make a network; how many layers the model has is an argument."""

    def create(validators: int = 2, layers: int = 8, **changes):
        monkeypatch.setattr(
            initialise, "load_model_info", lambda *args: build_info(layers)
        )
        monkeypatch.setattr(initialise, "LIGHT_COST", CHEAP)
        options = {
            "validators": validators,
            "model": "bundled",
            "passphrase": PASSPHRASE,
            "time_ms": TIME_MS,
            "is_devnet": True,
        } | changes
        return create_network(tmp_path / "net", **options)

    return create


def load_configs(network) -> list[Config]:
    return [Home(home.path).load_config() for home in network.homes]


@pytest.mark.parametrize("validators", range(1, 9))
@pytest.mark.parametrize("layers", [1, 3, 8, 9])
def test_every_layer_has_one_host(create, validators: int, layers: int) -> None:
    network = create(validators, layers)
    *nodes, gateway = load_configs(network)
    assert [config.name for config in nodes] == [f"node{i}" for i in range(validators)]
    assert all(config.validator and not config.gateway for config in nodes)
    assert (gateway.name, gateway.gateway, gateway.validator) == (GATEWAY, True, False)
    assert gateway.layer_range is None
    ranges = [config.layer_range for config in nodes if config.layers]
    covered = [layer for start, end in ranges for layer in range(start, end)]
    assert covered == list(range(layers))
    assert len(ranges) == min(validators, layers)
    # The chain has a shard for every one of them.
    spec = build_chain_spec(load_genesis(network.genesis))
    model_id = compute_model_id(bytes([1]) * 32, bytes([2]) * 32)
    for start, end in ranges:
        assert spec.first_layout.shards_of_range(model_id, start, end)


@pytest.mark.parametrize(
    ("validators", "replicas", "counts"),
    [(4, 2, [2, 2]), (4, 4, [4]), (6, 2, [2, 2, 2]), (5, 2, [3, 2]), (1, 1, [1])],
)
def test_replicas_host_the_same_layers(create, validators, replicas, counts) -> None:
    *nodes, _ = load_configs(create(validators, replicas=replicas))
    hosts = Counter(config.layer_range for config in nodes)
    assert list(hosts.values()) == counts
    covered = [layer for start, end in hosts for layer in range(start, end)]
    assert covered == list(range(8))


def test_no_more_replicas_than_validators(create) -> None:
    for replicas in (0, 5):
        with pytest.raises(ConfigError, match="replicas"):
            create(4, replicas=replicas)


def test_the_gateway_alone_guesses(create, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with pytest.raises(ConfigError, match="no such folder"):
        create(2, draft_model=str(folder))
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"a folder without config\.json"):
        create(2, draft_model=str(folder))
    (folder / "config.json").write_text("{}")
    *nodes, gateway = load_configs(create(2, draft_model=str(folder)))
    assert gateway.draft_model == str(folder)
    assert not any(config.draft_model for config in nodes)


def test_everybody_reaches_everybody(create) -> None:
    network = create(3)
    homes = [Home(home.path) for home in network.homes]
    keys = [home.load_node_key().public_key for home in homes]
    ports = [config.p2p_port for config in load_configs(network)]
    assert len(set(ports)) == 4
    assert set(ports) <= set(initialise.FREE_PORTS)
    for index, config in enumerate(load_configs(network)):
        peers = [Endpoint.parse(text) for text in config.peers]
        assert [peer.peer_id for peer in peers] == keys[:index]
        assert [peer.port for peer in peers] == ports[:index]
        assert config.rpc_port == 0


def test_ports_can_be_known_in_advance(create) -> None:
    *nodes, gateway = load_configs(create(2, port_base=30_000))
    assert (gateway.p2p_port, gateway.rpc_port) == (30_000, 30_001)
    assert [(c.p2p_port, c.rpc_port) for c in nodes] == [
        (30_010, 30_011),
        (30_020, 30_021),
    ]


def test_ports_in_use_are_passed_over(create, monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(initialise, "FREE_PORTS", range(port, port + 1))
        with pytest.raises(ConfigError, match="no 3 free ports"):
            create(2)


def test_ports_that_do_not_exist(create, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="port"):
        create(4, port_base=65_500)
    assert not (tmp_path / "net").exists()


def test_one_genesis_for_all(create) -> None:
    network = create(3)
    genesis = load_genesis(network.genesis)
    assert compute_chain_id(genesis) == network.chain_id
    assert len(genesis.validators) == 3
    assert all(load_genesis(Home(h.path).genesis) == genesis for h in network.homes)
    accounts = {a.address for a in genesis.allocations}
    assert len(accounts) == 4


def test_secrets_are_readable_by_their_owner_alone(create) -> None:
    network = create(2)
    for new in network.homes:
        home = Home(new.path)
        files = [path for path in new.path.rglob("*") if path.is_file()]
        secret = {
            home.account_keystore,
            home.path / "node_key",
            home.path / "api_token",
            home.path / "passphrase",
        } | ({home.validator_keystore} if new.name != GATEWAY else set())
        assert secret <= set(files)
        for path in secret:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        for path in files:
            text = path.read_bytes()
            assert new.phrase.encode() not in text, path


def test_keys_open_with_the_passphrase_alone(create) -> None:
    network = create(1)
    genesis = load_genesis(network.genesis)
    home = Home(network.homes[0].path)
    keys = load_keys(home, home.load_config(), PASSPHRASE)
    assert keys.validator.public_key == genesis.validators[0].public_key
    assert keys.account.public_key == genesis.validators[0].account
    with pytest.raises(WrongPassphrase):
        load_keys(home, home.load_config(), "wrong")
    assert home.load_passphrase() == PASSPHRASE


def test_only_a_devnet_keeps_its_passphrase(create, monkeypatch) -> None:
    monkeypatch.setattr(initialise, "DEFAULT_COST", CHEAP)
    network = create(1, is_devnet=False)
    assert all(Home(h.path).load_passphrase() is None for h in network.homes)


def test_nothing_is_overwritten(create, tmp_path: Path) -> None:
    create(1)
    before = (tmp_path / "net" / "genesis.json").read_bytes()
    with pytest.raises(HomeError, match="not empty"):
        create(1)
    assert (tmp_path / "net" / "genesis.json").read_bytes() == before


@pytest.mark.parametrize("validators", [0, -1, MAX_VALIDATORS + 1])
def test_impossible_numbers(create, validators: int) -> None:
    with pytest.raises(ConfigError, match="validators"):
        create(validators)


def test_folders_that_are_not_there(create, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        create(model=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no such folder"):
        resolve_model_dir(str(tmp_path / "nowhere"))
    assert (resolve_model_dir("bundled") / "config.json").is_file()


def test_a_home_joins_with_keys_of_its_own(create, tmp_path) -> None:
    network = create(1)
    config = Config(name="guest")
    joined = create_home(
        tmp_path / "guest", network.genesis, config, PASSPHRASE, cost=CHEAP
    )
    home = Home.open(joined.path)
    assert home.load_config() == config
    keys = load_keys(home, config, PASSPHRASE)
    assert keys.validator is None
    # The words bring all of it back.
    again = create_home(
        tmp_path / "again", network.genesis, config, PASSPHRASE, joined.phrase, CHEAP
    )
    restored = Home(again.path)
    assert home.votes.exists()
    assert not restored.votes.exists()
    assert restored.load_node_key().seed == home.load_node_key().seed
    account = load_keys(restored, config, PASSPHRASE).account
    assert account.seed == keys.account.seed
    with pytest.raises(HomeError, match="not empty"):
        create_home(tmp_path / "guest", network.genesis, config, PASSPHRASE, cost=CHEAP)


def test_a_home_that_joins_has_a_key_to_stake_with(
    create, tmp_path, monkeypatch
) -> None:
    network = create(1)
    config = Config(name="guest", validator=True)
    joined = create_home(
        tmp_path / "guest", network.genesis, config, PASSPHRASE, cost=CHEAP
    )
    keys = load_keys(Home(joined.path), config, PASSPHRASE)
    known = {v.public_key for v in load_genesis(network.genesis).validators}
    assert keys.validator is not None
    assert keys.validator.public_key not in known


def test_a_network_has_the_constants_that_were_chosen(create) -> None:
    network = create(choices={"epoch_blocks": 5, "interval_ms": 200})
    params = load_genesis(network.genesis).params
    assert params.chain.epoch_blocks == 5
    assert params.consensus.interval_ms == 200
    assert params.chain.base_fee == DEVNET_PARAMS.chain.base_fee


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"epoch_blocks": 2**40}, "epoch_blocks cannot be"),
        ({"min_stake": 2**70}, "min_stake cannot be"),
        ({"interval_ms": 0}, "interval_ms cannot be"),
        ({"colour": 1}, "no parameter of the chain is called colour"),
    ],
)
def test_constants_that_cannot_be(create, tmp_path, choices, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        create(choices=choices)
    assert not (tmp_path / "net").exists()


def test_constants_that_no_chain_can_start_with(create, tmp_path) -> None:
    with pytest.raises(CorruptGenesis, match="unbonding"):
        create(choices={"unbonding_epochs": 1})
    assert not (tmp_path / "net").exists()

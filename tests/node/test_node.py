"""Putting a node together: what a setting can break, before anything runs."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from genesis.files import load_genesis
from inference.bundled.paths import model_dir
from p2pchain.errors import ConfigError
from p2pchain.node.home.config import Config
from p2pchain.node.home.home import Home
from p2pchain.node.home.initialise import BUNDLED_NAME, create_network
from p2pchain.node.node import Node
from p2pchain.node.run import load_keys
from primitives.keys import SecretKey
from primitives.kv import MemoryStore

PASSPHRASE = "not a secret"
STRANGER = SecretKey(bytes([8]) * 32).public_key.hex()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> list[Home]:
    """A validator's home and a gateway's."""
    network = create_network(
        tmp_path_factory.mktemp("node") / "net",
        validators=1,
        model="bundled",
        passphrase=PASSPHRASE,
        time_ms=1_700_000_000_000,
        is_devnet=True,
    )
    return [Home(home.path) for home in network.homes]


def build(home: Home, **changes) -> Node:
    # One that votes holds its log until it ends; none of these ever runs.
    config: Config = replace(home.load_config(), validator=False, **changes)
    genesis = load_genesis(home.genesis)
    keys = load_keys(home, config, PASSPHRASE)
    return Node(home, config, keys, genesis, MemoryStore())


def get_key(home: Home) -> str:
    return home.load_node_key().public_key.hex()


def test_roles_follow_the_settings(homes) -> None:
    validator, gateway = build(homes[0]), build(homes[1])
    assert validator._hosting.provider is not None
    assert validator._hosting.gateway is None
    assert gateway._hosting.provider is None
    assert gateway._hosting.gateway is not None
    listener = build(homes[1], gateway=False)
    assert listener._hosting.provider is listener._hosting.gateway is None
    both = build(homes[0], gateway=True)
    assert None not in (both._hosting.provider, both._hosting.gateway)
    assert both._keys.validator is None


def test_a_model_is_called_what_the_chain_calls_it(homes, tmp_path: Path) -> None:
    """The folder's name is its owner's own affair."""
    folder = tmp_path / "some-other-name"
    shutil.copytree(model_dir(), folder)
    node = build(homes[1], model=str(folder))
    assert node._hosting.gateway.worker.info.name == BUNDLED_NAME


def test_another_model_is_refused(homes, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(model_dir(), folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ConfigError, match=r"none of this network's .*differ"):
        build(homes[1], model=str(folder))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layers": "6:9"}, "p2pchain-toy has 8"),
        ({"model": "/nowhere"}, "no such folder"),
        ({"peers": ("p2p://12@nowhere:1",)}, "peers"),
        ({"peers": ("",)}, "peers"),
        ({"advertise": ("nowhere",)}, "advertise"),
        ({"advertise": (f"p2p://{STRANGER}@1.2.3.4:5",)}, "names another node"),
        ({"p2p_host": "0.0.0.0"}, "where customers reach this node"),
        ({"p2p_host": "::"}, "where customers reach this node"),
    ],
)
def test_settings_that_nobody_can_serve(homes, changes, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build(homes[0], **changes)


def test_a_node_says_where_it_is_reached(homes) -> None:
    endpoints = tuple(f"p2p://{get_key(homes[0])}@10.0.0.{n}:77" for n in range(1, 5))
    node = build(homes[0], p2p_host="0.0.0.0", advertise=endpoints)
    assert tuple(map(str, node._advertised)) == endpoints
    with pytest.raises(ConfigError, match="at most 4"):
        build(homes[0], advertise=(*endpoints, endpoints[0]))
    # Who hosts nothing need not be reached.
    assert build(homes[1], p2p_host="0.0.0.0")._advertised == ()

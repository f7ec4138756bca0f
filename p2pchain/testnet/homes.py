"""
The homes of a test network: keys, genesis, addresses, settings.

Keys follow from the manifest's seed, so that the same manifest makes the same accounts,
leaders and load.  A node that starts later gets its home the way that people make
one: with `p2pchain init --genesis FILE`, and keys that nobody can foretell.
"""

import json
import secrets
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from genesis.files import save_genesis
from genesis.genesis import Genesis, GenesisParams, GenesisValidator, compute_chain_id
from genesis.presets import build_devnet_genesis
from inference.weights.model_info import load_model_info
from network.endpoint import Endpoint
from p2pchain.node.home.config import Config
from p2pchain.node.home.home import Home, write_secret
from p2pchain.node.home.initialise import (
    build_model_record,
    create_home,
    get_model_name,
    resolve_model_dir,
)
from p2pchain.node.home.wal_file import create_wal
from p2pchain.testnet.errors import StepFailed
from p2pchain.testnet.manifest import Manifest, Node, split_params
from p2pchain.testnet.relay import Relays
from primitives.bls import BlsSecretKey
from primitives.hashing import compute_hash
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN
from wallet.derivation import (
    derive_account_key,
    derive_node_key,
    derive_validator_secret,
)
from wallet.keystore import LIGHT_COST
from wallet.mnemonic import build_mnemonic, compute_seed

PASSPHRASE = "guards nothing"
"""Of all keystores: their keys are in the manifest's seed."""
BALANCE = 1_000 * ATOMS_PER_COIN
"""Of a node's account: fees, and the collateral of layers."""
WALLET_BALANCE = 10 * ATOMS_PER_COIN
"""Of each wallet of the load in each shard: thousands of fees and transfers."""
TREASURY_COINS = 10_000_000
"""Of the account that pays for the stakes of those who join."""
INIT_S = 120.0
"""For `init` on a busy machine; scrypt alone takes seconds there."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of one node."""

    phrase: str
    account: SecretKey
    node: SecretKey
    validator: BlsSecretKey

    @classmethod
    def from_phrase(cls, phrase: str) -> "Keys":
        """Return what follows from 24 words."""
        seed = compute_seed(phrase)
        validator = BlsSecretKey(derive_validator_secret(seed))
        return cls(phrase, derive_account_key(seed), derive_node_key(seed), validator)


@dataclass(slots=True)
class Homes:
    """Where everything of a network lies, and every key in it."""

    manifest: Manifest
    folder: Path
    genesis: Genesis
    chain_id: bytes
    ports: tuple[int, ...]
    """Where each node listens for peers, in the manifest's order."""
    relays: Relays
    treasury: SecretKey
    """Holds `TREASURY_COINS` in the root shard."""
    wallets: tuple[SecretKey, ...]
    """Of the load; each holds `WALLET_BALANCE` in every shard."""
    keys: dict[str, Keys] = field(default_factory=dict)
    """By the names of the nodes whose homes exist."""

    @property
    def genesis_file(self) -> Path:
        """The network's genesis.json."""
        return self.folder / "genesis.json"

    def get_index(self, name: str) -> int:
        """Return a node's place in the manifest."""
        return [node.name for node in self.manifest.nodes].index(name)

    def open(self, name: str) -> Home:
        """Return the home of a node that has one."""
        return Home.open(self.folder / name)

    def create_late(self, node: Node) -> None:
        """Make the home of a node that starts later; takes seconds.

        Raises:
            StepFailed: `init` does not do it; quotes what it says.
        """
        path = self.folder / node.name
        words = self.folder / "passphrase"
        write_secret(words, PASSPHRASE)
        config = self.build_config(node)
        done = subprocess.run(
            [sys.executable, "-m", "p2pchain", "--home", str(path), "--json",
             "--passphrase-file", str(words), "init", "--genesis",
             str(self.genesis_file), "--name", node.name, "--peers", *config.peers],
            capture_output=True, text=True, timeout=INIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StepFailed(f"init of {node.name} failed: {done.stderr.strip()}")
        self.keys[node.name] = Keys.from_phrase(json.loads(done.stdout)["mnemonic"])
        home = Home.open(path)
        home.save_config(config)
        write_secret(home.path / "passphrase", PASSPHRASE)

    def set_validator(self, name: str) -> None:
        """Have a node vote from its next start on."""
        home = self.open(name)
        home.save_config(replace(home.load_config(), validator=True))

    def build_config(self, node: Node) -> Config:
        """Return a node's settings; its peers are those whose homes exist."""
        index = self.get_index(node.name)
        others = (each.name for each in self.manifest.nodes)
        peers = [
            Endpoint(
                self.keys[name].node.public_key,
                self.relays.get_dialled_host(index, place),
                self.ports[place],
            )
            for place, name in enumerate(others)
            if name in self.keys and name != node.name
        ]
        if not node.start_at:
            # As in a devnet: of two nodes the later one keeps the connection.
            peers = peers[:index]
        return Config(
            name=node.name,
            p2p_host=self.relays.get_host(index),
            p2p_port=self.ports[index],
            peers=tuple(str(peer) for peer in peers),
            layers=node.layers,
            validator=node.stake > 0,
            # The load and the checks ask any node about any shard.
            follow_shards="all",
        )


def create_homes(manifest: Manifest, folder: Path, time_ms: int) -> Homes:
    """Make genesis and the homes of all nodes that are there from the start.

    Args:
        manifest: What to build.
        folder: Empty or new.
        time_ms: Genesis time, milliseconds since the Unix epoch.
    """
    first = [node for node in manifest.nodes if not node.start_at]
    keys = {node.name: _derive_keys(manifest.seed, node.name) for node in first}
    treasury = _derive_key(manifest.seed, "treasury")
    wallets = tuple(
        _derive_key(manifest.seed, f"wallet {number}")
        for number in range(manifest.load.wallets)
    )
    genesis = _build_genesis(manifest, keys, treasury, wallets, time_ms)
    network = 1 + secrets.randbelow(254)
    ports = _find_ports(network, len(manifest.nodes))
    homes = Homes(
        manifest=manifest,
        folder=folder,
        genesis=genesis,
        chain_id=compute_chain_id(genesis),
        ports=ports,
        relays=Relays(network, ports, manifest.delay_ms / 1000),
        treasury=treasury,
        wallets=wallets,
        keys=keys,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_genesis(genesis, homes.genesis_file)
    for node in first:
        _create_first(homes, node)
    return homes


def _create_first(homes: Homes, node: Node) -> None:
    keys = homes.keys[node.name]
    config = homes.build_config(node)
    path = homes.folder / node.name
    create_home(
        path, homes.genesis_file, config, PASSPHRASE, keys.phrase, cost=LIGHT_COST
    )
    home = Home.open(path)
    for log in (home.votes, home.chunks):
        if log.exists():
            continue
        # Keys from words may have voted elsewhere; these have not.
        create_wal(log, keys.validator.public_key, homes.chain_id)
    write_secret(home.path / "passphrase", PASSPHRASE)


def _build_genesis(
    manifest: Manifest,
    keys: dict[str, Keys],
    treasury: SecretKey,
    wallets: tuple[SecretKey, ...],
    time_ms: int,
) -> Genesis:
    chain, consensus = split_params(manifest.params)
    model = "bundled"
    info = load_model_info(resolve_model_dir(model), get_model_name(model))
    validators = [
        GenesisValidator(
            name=node.name,
            account=keys[node.name].account.public_key,
            public_key=keys[node.name].validator.public_key,
            proof_of_possession=keys[node.name].validator.prove_possession(),
            power=node.stake * ATOMS_PER_COIN,
        )
        for node in manifest.validators
    ]
    balances = {key.account.public_key: BALANCE for key in keys.values()}
    balances[treasury.public_key] = TREASURY_COINS * ATOMS_PER_COIN
    genesis = build_devnet_genesis(
        validators=validators,
        models=[build_model_record(info)],
        balances=balances,
        time_ms=time_ms,
        network="testnet",
        params=GenesisParams(chain=chain, consensus=consensus),
    )
    purses = {
        (key.public_key, shard): WALLET_BALANCE
        for key in wallets
        for shard in genesis.layout.shard_ids
    }
    return build_devnet_genesis(
        validators=validators,
        models=genesis.models,
        balances=balances,
        time_ms=time_ms,
        network=genesis.network,
        params=genesis.params,
        shard_balances=purses,
    )


def _derive_keys(seed: int, name: str) -> Keys:
    entropy = compute_hash("testnet", seed.to_bytes(8, "big"), name.encode())
    return Keys.from_phrase(build_mnemonic(entropy))


def _derive_key(seed: int, name: str) -> SecretKey:
    return SecretKey(compute_hash("testnet", seed.to_bytes(8, "big"), name.encode()))


def _find_ports(network: int, count: int) -> tuple[int, ...]:
    """Return a port per node that is free now; held until all are found."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for index, each in enumerate(sockets):
            each.bind((f"127.{network}.0.{index + 1}", 0))
        return tuple(each.getsockname()[1] for each in sockets)

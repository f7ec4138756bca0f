"""
A node's home folder: everything that one node keeps.

    config.toml             settings that a person may edit
    genesis.json            the network's first state
    keystore/account.json   EIP-2335: the wallet's Ed25519 seed
    keystore/validator.json EIP-2335: the validator's BLS secret, validators only
    node_key                network identity: Ed25519 seed, hex, 0600
    passphrase              optional, 0600: opens both keystores without a question
    api_token               0600: bearer token of spending methods and API key
    data/                   LevelDB: chain and books
    wal/votes               consensus votes, append-only; validators only
    wal/chunks              produced and endorsed chunks, likewise
    state-sync/             parts of a snapshot, while one is fetched
    shard-sync/             parts of one shard, likewise
    weights/                models that came from peers, and the cache of their parts
    node.json               written while the node runs: pid and bound addresses

One process owns a home at a time; a lock file says which.
"""

import fcntl
import json
import os
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from p2pchain.errors import ConfigError, HomeError
from p2pchain.node.home.config import Config, build_config
from primitives.keys import SecretKey
from wallet.files import write_atomically

DEFAULT_HOME = Path("~/.p2pchain")


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of a home folder and what is kept in plain files there."""

    path: Path
    genesis: Path = field(init=False)
    account_keystore: Path = field(init=False)
    validator_keystore: Path = field(init=False)
    data: Path = field(init=False)
    votes: Path = field(init=False)
    """The log of consensus votes; validators only."""
    chunks: Path = field(init=False)
    """The log of produced and endorsed chunks; validators only."""
    state_sync: Path = field(init=False)
    """Parts of a snapshot on its way."""
    shard_sync: Path = field(init=False)
    """Parts of a shard on its way."""
    weights: Path = field(init=False)
    """Models that came from peers."""
    runtime: Path = field(init=False)
    """node.json: pid and bound addresses while the node runs."""

    def __post_init__(self) -> None:
        path = Path(self.path).expanduser().absolute()
        for name, value in {
            "path": path,
            "genesis": path / "genesis.json",
            "account_keystore": path / "keystore" / "account.json",
            "validator_keystore": path / "keystore" / "validator.json",
            "data": path / "data",
            "votes": path / "wal" / "votes",
            "chunks": path / "wal" / "chunks",
            "state_sync": path / "state-sync",
            "shard_sync": path / "shard-sync",
            "weights": path / "weights",
            "runtime": path / "node.json",
        }.items():
            object.__setattr__(self, name, value)

    @classmethod
    def open(cls, path: Path) -> "Home":
        """Return the existing home at `path`.

        Raises:
            HomeError: It is missing or no home.
        """
        home = cls(path)
        for needed in (home.path / "config.toml", home.genesis):
            if not needed.is_file():
                raise HomeError(
                    f"{home.path} is not a node's home: {needed.name} is missing; "
                    "make one with `p2pchain init --genesis` or choose another "
                    "with --home"
                )
        return home

    def create(self, config: Config, node_key: SecretKey) -> None:
        """Make the folders, the node key's file, an API token and config.toml.

        Raises:
            HomeError: Something is there already.
        """
        require_empty(self.path)
        for folder in (
            self.path,
            self.account_keystore.parent,
            self.data,
            self.votes.parent,
        ):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        write_secret(self.path / "node_key", node_key.seed.hex())
        write_secret(self.path / "api_token", "sk-" + secrets.token_urlsafe(32))
        self.save_config(config)

    def load_config(self) -> Config:
        """Return the settings of config.toml.

        Raises:
            ConfigError: Not TOML, an unknown setting or a value of the wrong kind.
        """
        path = self.path / "config.toml"
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return build_config(values, str(path))

    def save_config(self, config: Config) -> None:
        """Write config.toml anew."""
        lines = ["# Settings of this node; some are options of `p2pchain start` too."]
        for name in config.__dataclass_fields__:
            # JSON's strings, numbers, booleans and lists of strings are TOML's too,
            # but for escaped pairs of surrogates, and the one control character that
            # JSON lets through.
            value = json.dumps(getattr(config, name), ensure_ascii=False)
            lines.append(f"{name} = {value}".replace("\x7f", "\\u007f"))
        write_atomically(self.path / "config.toml", "\n".join(lines) + "\n", 0o644)

    def load_node_key(self) -> SecretKey:
        """Return the network identity.

        Raises:
            HomeError: The file is missing or damaged.
        """
        path = self.path / "node_key"
        try:
            seed = bytes.fromhex(path.read_text().strip())
        except (OSError, ValueError) as error:
            raise HomeError(f"{path} is missing or damaged: {error}") from error
        if len(seed) != 32:
            raise HomeError(f"{path} is damaged: {len(seed)} bytes instead of 32")
        return SecretKey(seed)

    def load_api_token(self) -> str:
        """Return the bearer token of spending methods; also the API key.

        Raises:
            HomeError: The file is missing or empty.
        """
        path = self.path / "api_token"
        try:
            token = path.read_text().strip()
        except OSError as error:
            raise HomeError(f"{path}: {error}") from error
        if not token:
            raise HomeError(f"{path} is empty; put a secret of your own in it")
        return token

    def load_passphrase(self) -> str | None:
        """Return the stored passphrase, or None where a person has to give it."""
        path = self.path / "passphrase"
        return path.read_text().rstrip("\n") if path.is_file() else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the home while the context lasts.

        Raises:
            HomeError: Another process runs with it.
        """
        path = self.path / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.read(descriptor, 32).decode(errors="replace").strip()
                raise HomeError(
                    f"{self.path} is in use by process {owner or 'unknown'}; "
                    "stop it first, or choose another home with --home"
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


def require_empty(folder: Path) -> None:
    """Refuse to make anything where something is.

    Raises:
        HomeError: The folder holds something, or is none.
    """
    if folder.exists() and not folder.is_dir():
        raise HomeError(f"{folder} is no folder; nothing was changed")
    if folder.exists() and any(folder.iterdir()):
        raise HomeError(f"{folder} exists and is not empty; nothing was changed")


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    write_atomically(path, text + "\n", 0o600)

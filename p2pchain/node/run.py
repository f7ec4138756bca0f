"""`p2pchain start`, after the command line: open everything, run, close everything."""

import gc
import json
import logging
import sys
import time
from dataclasses import replace
from typing import Literal

import trio

from chain.errors import OtherFormat, StoreError
from chain.storage.leveldb import LevelStore
from genesis.files import load_genesis
from genesis.state import build_chain_spec
from p2pchain.errors import HomeError, find_cause
from p2pchain.node.home.config import Config
from p2pchain.node.home.home import Home
from p2pchain.node.node import Node, NodeKeys
from p2pchain.node.repair import finish_repair
from p2pchain.node.state_sync.files import PartFiles
from p2pchain.node.state_sync.install import settle_database
from primitives.bls import BlsSecretKey, select_backend
from wallet.errors import CorruptKeystore
from wallet.keystore import (
    Keystore,
    decrypt_account_key,
    decrypt_secret,
    load_keystore,
)

log = logging.getLogger(__name__)

LogFormat = Literal["plain", "json"]


def run_node(
    home: Home,
    config: Config,
    passphrase: str,
    *,
    parent_fd: int | None = None,
    log_format: LogFormat = "plain",
) -> int:
    """Run a node until it is told to stop; returns the exit code.

    Raises:
        P2PChainError: Why it cannot run.
    """
    configure_logging(log_format)
    select_backend("reference" if config.bls == "reference" else "native")
    if config.bls == "reference":
        log.warning("--bls reference: about a second per signature check; for tests")
    genesis = load_genesis(home.genesis)
    with home.lock():
        keys = load_keys(home, config, passphrase)
        finish_repair(home.data)
        with LevelStore(home.data) as kv:
            spec, files = build_chain_spec(genesis), PartFiles(home.state_sync)
            # A hundred thousand objects of libraries never go away; looking at them
            # all again, the collector would stop votes and steps for 60 ms at a time.
            gc.collect()
            gc.freeze()
            while True:
                try:
                    settle_database(spec, kv, files)
                    node = Node(home, config, keys, genesis, kv)
                except OtherFormat:
                    raise
                except StoreError as error:
                    raise StoreError(
                        f"{error}; what the disk has damaged, `p2pchain db repair` "
                        "replaces: vouchers stay, the chain comes from peers"
                    ) from error
                try:
                    trio.run(node.run, parent_fd)
                except BaseExceptionGroup as group:
                    raise find_cause(group) from group
                if not node.has_state:
                    return 0
                # Who talks to us finds us again where we were.
                config = replace(config, p2p_port=node.p2p_port, rpc_port=node.rpc_port)


def load_keys(home: Home, config: Config, passphrase: str) -> NodeKeys:
    """Return the secrets of a home.

    A validator's key is there before it has a stake: what it may sign follows from the
    chain's validator sets.

    Raises:
        HomeError: A keystore is missing.
        KeystoreError: It is damaged, or the passphrase does not open it.
    """
    account = decrypt_account_key(_load(home, "account"), passphrase)
    validator = None
    if config.validator:
        keystore = _load(home, "validator")
        validator = BlsSecretKey(decrypt_secret(keystore, passphrase))
    return NodeKeys(account=account, node=home.load_node_key(), validator=validator)


def _load(home: Home, kind: Literal["account", "validator"]) -> Keystore:
    path = home.account_keystore if kind == "account" else home.validator_keystore
    if not path.is_file():
        raise HomeError(
            f"{path} is missing; restore it from a copy, or make a new home with "
            "`p2pchain init --genesis FILE --restore WORDS`"
        )
    try:
        return load_keystore(path)
    except CorruptKeystore as error:
        raise HomeError(f"{path}: {error}; restore it from a copy") from error


def configure_logging(log_format: LogFormat) -> None:
    """Log one line per decision to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        form = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s"
        formatter = logging.Formatter(form, "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document)

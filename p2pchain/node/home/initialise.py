"""
A new network on this machine: genesis, one home per validator, and a gateway's.

    DIR/genesis.json
    DIR/node0 .. node(N-1)     validators; together they host every layer of the model,
                               each range on as many of them as there are replicas
    DIR/gateway                no stake, no layers; a wallet and the OpenAI API

Every home has a phrase of its own, from which all its keys follow.  Stake and first
balances lie in the root shard; nodes move what they need to other shards themselves.
"""

import random
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from msgspec import structs

from chain.records.model import ModelRecord, compute_model_id
from genesis.files import load_genesis, save_genesis
from genesis.genesis import (
    Genesis,
    GenesisParams,
    GenesisValidator,
    compute_chain_id,
)
from genesis.presets import DEVNET_PARAMS, build_devnet_genesis
from genesis.validation import validate_genesis
from inference.bundled.paths import model_dir
from inference.certification.certify import (
    CERTIFICATES_FOLDER,
    keep_certificate,
    require_certificate,
)
from inference.weights.model_info import ModelInfo, load_model_info
from inference.weights.weights import CONFIG_FILE
from network.endpoint import Endpoint
from p2pchain.errors import ConfigError
from p2pchain.node.home.config import Config
from p2pchain.node.home.home import Home, require_empty, write_secret
from p2pchain.node.home.wal_file import create_wal
from primitives.bls import BlsSecretKey
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN
from shards.layout import cut_layers
from wallet.derivation import (
    derive_account_key,
    derive_node_key,
    derive_validator_secret,
    get_account_path,
    get_validator_path,
)
from wallet.keystore import (
    DEFAULT_COST,
    LIGHT_COST,
    ScryptCost,
    encrypt_account_key,
    encrypt_secret,
    save_keystore,
)
from wallet.mnemonic import build_mnemonic, compute_seed

GATEWAY = "gateway"
BUNDLED_NAME = "p2pchain-toy"
MAX_VALIDATORS = 16
"""Processes that one machine runs for a try-out; networks of many machines join."""
DEFAULT_PORT_BASE = 26600
"""The gateway listens at base (peers) and base + 1 (RPC), node i at 10 (i + 1) more."""
MAX_PORT = 65535
FREE_PORTS = range(27_000, 32_768)
"""Where a network looks for free ports: below those that systems lend to outgoing
connections, so that a node which was down finds its port free."""

STAKE = 100_000 * ATOMS_PER_COIN
BALANCE = 10_000 * ATOMS_PER_COIN
MIN_COLLATERAL = 1 * ATOMS_PER_COIN

Report = Callable[[str], None]
P = TypeVar("P", bound=Record)


@dataclass(frozen=True, slots=True)
class NewHome:
    """One home that `create_network` made."""

    name: str
    path: Path
    phrase: str
    """24 words that restore every key of this home; kept nowhere."""


@dataclass(frozen=True, slots=True)
class NewNetwork:
    """What `create_network` made."""

    chain_id: bytes
    genesis: Path
    homes: tuple[NewHome, ...]
    """Validators in order, the gateway last."""


@dataclass(frozen=True, slots=True)
class _Keys:
    phrase: str
    account: SecretKey
    node: SecretKey
    validator: BlsSecretKey


def resolve_model_dir(setting: str) -> Path:
    """Return the folder that the setting `model` names.

    Raises:
        ConfigError: No such folder.
    """
    if setting == "bundled":
        return model_dir()
    path = Path(setting).expanduser().absolute()
    if not path.is_dir():
        raise ConfigError(f"model {setting}: no such folder")
    if not (path / CONFIG_FILE).is_file():
        raise ConfigError(f"model {setting}: a folder without {CONFIG_FILE}")
    return path


def get_model_name(setting: str) -> str:
    """Return what a model is called on chain, by the setting `model`."""
    if setting == "bundled":
        return BUNDLED_NAME
    return resolve_model_dir(setting).name[:64]


def build_model_record(info: ModelInfo) -> ModelRecord:
    """Return what the chain keeps of a model."""
    return ModelRecord(
        model_id=compute_model_id(info.weights_root, info.tokenizer_hash),
        name=info.name,
        architecture=info.architecture,
        layers=info.layers,
        hidden_size=info.hidden_size,
        vocab_size=info.vocab_size,
        dtype=info.dtype,
        weights_root=info.weights_root,
        tokenizer_hash=info.tokenizer_hash,
        min_collateral=MIN_COLLATERAL,
    )


def create_network(
    folder: Path,
    *,
    validators: int,
    model: str,
    passphrase: str,
    time_ms: int,
    is_devnet: bool,
    port_base: int | None = None,
    replicas: int = 1,
    draft_model: str = "",
    choices: Mapping[str, int] = MappingProxyType({}),
    report: Report = lambda line: None,
) -> NewNetwork:
    """Make a network's genesis and homes under `folder`.

    Args:
        folder: Empty or new.
        validators: 1 to `MAX_VALIDATORS`.
        model: `bundled`, or a Hugging Face folder.
        passphrase: Opens every keystore.
        time_ms: Genesis time, milliseconds since the Unix epoch.
        is_devnet: Keystores guard nothing: cheap scrypt, passphrase beside them.
        port_base: See `DEFAULT_PORT_BASE`; None takes free ports now for peers and
            a free one at every start for RPC.
        replicas: Validators that host the same layers; more of them, fewer ranges.
        draft_model: A Hugging Face folder with which the gateway guesses, or nothing.
        choices: Chain and consensus parameters by name that differ from a devnet's.
        report: Takes a line of progress.

    Raises:
        HomeError: The folder holds something.
        ConfigError: An impossible number or model folder.
        CorruptGenesis: The chosen parameters cannot start a chain.
        ModelError: The model cannot be split, or the split probe refuses it.
    """
    if not 1 <= validators <= MAX_VALIDATORS:
        raise ConfigError(f"validators must be from 1 to {MAX_VALIDATORS}")
    if not 1 <= replicas <= validators:
        raise ConfigError(f"replicas must be from 1 to the {validators} validators")
    folder = folder.expanduser().absolute()
    require_empty(folder)
    if port_base is not None:
        _validate_port_base(port_base, validators)
    report("reading the model")
    info = load_model_info(resolve_model_dir(model), get_model_name(model))
    report("certifying that it can be divided")
    certificate = require_certificate(resolve_model_dir(model))
    keys = [_generate_keys() for _ in range(validators + 1)]
    genesis = _build_genesis(info, keys, time_ms, build_params(choices))
    validate_genesis(genesis)
    configs = _build_configs(info, model, keys, port_base, replicas, draft_model)
    folder.mkdir(parents=True, exist_ok=True)
    save_genesis(genesis, folder / "genesis.json")
    cost = LIGHT_COST if is_devnet else DEFAULT_COST
    homes = []
    for config, key in zip(configs, keys, strict=True):
        report(f"making the home of {config.name}")
        home = Home(folder / config.name)
        home.create(config, key.node)
        save_genesis(genesis, home.genesis)
        keep_certificate(certificate, home.path / CERTIFICATES_FOLDER)
        _save_keys(home, key, passphrase, cost, is_validator=config.validator)
        if config.validator:
            public_key = key.validator.public_key
            for log in (home.votes, home.chunks):
                create_wal(log, public_key, compute_chain_id(genesis))
        if is_devnet:
            write_secret(home.path / "passphrase", passphrase)
        homes.append(NewHome(config.name, home.path, key.phrase))
    chain_id = compute_chain_id(genesis)
    return NewNetwork(chain_id, folder / "genesis.json", tuple(homes))


def create_home(
    folder: Path,
    genesis_file: Path,
    config: Config,
    passphrase: str,
    phrase: str | None = None,
    cost: ScryptCost = DEFAULT_COST,
) -> NewHome:
    """Make one home that joins the network of `genesis_file`.

    Args:
        folder: Empty or new.
        genesis_file: The network's genesis.json.
        config: Its settings.
        passphrase: Opens its keystores.
        phrase: 24 words to restore keys from; None makes new ones.  A restored
            validator key may have voted before, so its home starts with a lost log.
        cost: Of opening the keystores.

    Raises:
        HomeError: The folder holds something.
        CorruptGenesis: The file is no genesis.
    """
    genesis = load_genesis(genesis_file)
    keys = _generate_keys(phrase)
    home = Home(folder)
    home.create(config, keys.node)
    save_genesis(genesis, home.genesis)
    _save_keys(home, keys, passphrase, cost, is_validator=True)
    if phrase is None:
        for log in (home.votes, home.chunks):
            create_wal(log, keys.validator.public_key, compute_chain_id(genesis))
    return NewHome(config.name, home.path, keys.phrase)


def _generate_keys(phrase: str | None = None) -> _Keys:
    phrase = phrase or build_mnemonic()
    seed = compute_seed(phrase)
    validator = BlsSecretKey(derive_validator_secret(seed))
    return _Keys(phrase, derive_account_key(seed), derive_node_key(seed), validator)


def _save_keys(
    home: Home, keys: _Keys, passphrase: str, cost: ScryptCost, *, is_validator: bool
) -> None:
    path = get_account_path(0)
    keystore = encrypt_account_key(keys.account, passphrase, path=path, cost=cost)
    save_keystore(home.account_keystore, keystore)
    if is_validator:
        keystore = encrypt_secret(
            keys.validator.secret,
            passphrase,
            public_key=keys.validator.public_key,
            path=get_validator_path(0),
            description="p2pchain validator (BLS12-381)",
            cost=cost,
        )
        save_keystore(home.validator_keystore, keystore)


def build_params(choices: Mapping[str, int]) -> GenesisParams:
    """Return a devnet's parameters with those replaced that `choices` names.

    Raises:
        ConfigError: A name that no parameter has, or a number that it cannot be.
    """
    params = DEVNET_PARAMS
    for name, value in choices.items():
        for part in (params.chain, params.consensus):
            if name in part.__struct_fields__:
                kind = "chain" if part is params.chain else "consensus"
                params = structs.replace(params, **{kind: _change(part, name, value)})
                break
        else:
            raise ConfigError(f"no parameter of the chain is called {name}")
    return params


def _change(part: P, name: str, value: int) -> P:
    try:
        return decode(type(part), encode(structs.replace(part, **{name: value})))
    except (DecodeError, OverflowError) as error:
        raise ConfigError(f"{name} cannot be {value}: {error}") from error


def _build_genesis(
    info: ModelInfo, keys: list[_Keys], time_ms: int, params: GenesisParams
) -> Genesis:
    validators = [
        GenesisValidator(
            name=f"node{index}",
            account=key.account.public_key,
            public_key=key.validator.public_key,
            proof_of_possession=key.validator.prove_possession(),
            power=STAKE,
        )
        for index, key in enumerate(keys[:-1])
    ]
    return build_devnet_genesis(
        validators=validators,
        models=[build_model_record(info)],
        balances={key.account.public_key: BALANCE for key in keys},
        time_ms=time_ms,
        params=params,
    )


def _build_configs(
    info: ModelInfo,
    model: str,
    keys: list[_Keys],
    port_base: int | None,
    replicas: int,
    draft_model: str,
) -> list[Config]:
    """Return a Config per home; every node keeps a connection to all before it."""
    count = len(keys) - 1
    ranges = cut_layers(info.layers, min(count // replicas, info.layers))
    # What does not divide makes some ranges' replicas more.
    hosts = count if replicas > 1 else len(ranges)
    setting = model if model == "bundled" else str(resolve_model_dir(model))
    draft = str(resolve_model_dir(draft_model)) if draft_model else ""
    if port_base is None:
        p2p_ports = _find_free_ports(count + 1)
        rpc_ports = [0] * (count + 1)
    else:
        places = [10 * (index + 1) for index in range(count)] + [0]
        p2p_ports = [port_base + place for place in places]
        rpc_ports = [port + 1 for port in p2p_ports]
    endpoints = [
        str(Endpoint(key.node.public_key, "127.0.0.1", port))
        for key, port in zip(keys, p2p_ports, strict=True)
    ]
    configs = []
    for index in range(count + 1):
        is_gateway = index == count
        config = Config(
            name=GATEWAY if is_gateway else f"node{index}",
            p2p_port=p2p_ports[index],
            rpc_port=rpc_ports[index],
            peers=tuple(endpoints[:index]),
            model=setting,
            validator=not is_gateway,
            gateway=is_gateway,
            draft_model=draft if is_gateway else "",
        )
        if index < hosts and not is_gateway:
            start, end = ranges[index % len(ranges)]
            config = replace(config, layers=f"{start}:{end}")
        configs.append(config)
    return configs


def _validate_port_base(port_base: int, validators: int) -> None:
    last = port_base + 10 * validators + 1
    if not (port_base > 0 and last <= MAX_PORT):
        raise ConfigError(
            f"ports {port_base} to {last} are needed; they go from 1 to {MAX_PORT}"
        )


def _find_free_ports(count: int) -> list[int]:
    """Return ports that are free now; held until all are found, so they differ.

    Raises:
        ConfigError: There are not so many.
    """
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
            candidate = stack.enter_context(socket.socket())
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise ConfigError(
        f"no {count} free ports from {FREE_PORTS.start} to {FREE_PORTS[-1]}"
    )

"""
The settings of a node: config.toml, and the options of the command line that replace
single ones.
"""

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from inference.device.precision import Precision
from inference.protocol.codec import CODEC_OF_NAME
from p2pchain.errors import ConfigError
from primitives.types import ShardId

AUTO = "auto"
"""In place of layers: to be chosen."""
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,2})?")
MAX_LAYERS = 2**16 - 1
"""What a registration can say."""
MAX_LAYERS_TEXT = 32
MAX_FOLLOW_TEXT = 400
"""Room for both numbers with zeros before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of config.toml; command line options replace single ones."""

    name: str
    """What people call this node: 1 to 32 letters, digits, '-' or '_'."""
    p2p_host: str = "127.0.0.1"
    p2p_port: int = 0
    """Where peers reach us; 0 takes any free port."""
    advertise: tuple[str, ...] = ()
    """Endpoints that we let others know; empty: the bound one."""
    rpc_host: str = "127.0.0.1"
    rpc_port: int = 0
    peers: tuple[str, ...] = ()
    """Endpoints p2p://KEY@host:port that we keep a connection to."""
    model: str = "bundled"
    """Hugging Face directory of the model, `bundled`, or the name or id of a model of
    the chain, which then comes from peers."""
    layers: str = ""
    """Layers that we host: `start:end`, `auto` for what fits and is most needed, or
    empty for none."""
    weights_cache_mb: int = 65_536
    """How much the cache of weights that came from peers may hold, in megabytes."""
    validator: bool = False
    gateway: bool = False
    """Whether /v1 answers here, with a requester worker of our own."""
    bls: str = "native"
    """`native`, or `reference` for the slow py_ecc."""
    precision: str = "native"
    """In which layers that we host compute, and those that we buy as a gateway:
    `native`, `fp32`, `bf16`, `fp16`, `int8`, `int4`, or `auto` for what this machine
    does well and others serve, which is chosen once.  Sold as layers of another kind:
    no route mixes them."""
    device: str = "auto"
    """Where they compute: `cpu`, `cuda`, `cuda:1` and so on, or `auto` for a CUDA
    device where there is one."""
    draft_model: str = ""
    """Hugging Face directory of a small model with which a gateway guesses what
    follows; empty for none.  It must have the vocabulary of `model`."""
    activations: str = "lossless"
    """How hidden states travel in answers that we buy: `lossless`, or `int8` for a
    quarter to a half of the bytes and a small error in every hop."""
    torch_threads: int = 1
    """Per worker; more than the machine's idle cores makes everything slower."""
    chunk_workers: int = -1
    """Processes that execute chunks of other shards beside the node, when blocks are
    full enough to need them; 0: none, -1: one less than the machine has cores."""
    input_price: int = 400
    """Atoms per layer and token of a prompt."""
    output_price: int = 1600
    """Atoms per layer and token of an answer."""
    sync: str = "snapshot"
    """How to catch up from far behind: `snapshot` takes a state from peers, `replay`
    executes every block and so has all history."""
    snapshot_after_epochs: int = 16
    """How far is far; on a devnet that is a quarter of an hour."""
    follow_shards: str = "hosted"
    """Which layer shards to hold, execute and answer for: `all`, numbers as in `1,2`,
    or `hosted`, which is all on gateways and on nodes that neither host nor vote;
    besides, always the root shard and those of the layers that this node hosts or, as
    a gateway, buys.  One that is new among them is taken from peers."""
    custodian: bool = True
    """Whether a validator follows the shards, too, whose custodian it is or soon will
    be: three of all validators by lot, per shard and epoch, so that a shard lives on
    that nobody hosts."""
    checkpoint: str = ""
    """EPOCH:ROOT of a validator set that somebody told us whom we believe; where trust
    begins for who was away for longer than stake is bound."""
    null_layers: bool = False
    """Compute nothing and hand hidden states on: what remains is the cost of the way.
    Measurements use it; answers are nonsense."""

    @property
    def trusted_epoch(self) -> tuple[int, bytes] | None:
        """Epoch and validator root of the checkpoint, or None."""
        return parse_checkpoint(self.checkpoint) if self.checkpoint else None

    @property
    def followed_shards(self) -> frozenset[ShardId] | None:
        """The layer shards that are named; None: all there are."""
        works = self.validator or bool(self.layers)
        if self.follow_shards == "hosted" and (self.gateway or not works):
            return None
        return parse_shards(self.follow_shards)

    @property
    def layer_range(self) -> tuple[int, int] | None:
        """The half-open range [start, end) of hosted layers; None for none, or while
        they are still to be chosen."""
        if not self.layers or self.layers == AUTO:
            return None
        return parse_layers(self.layers)

    @property
    def chain_model(self) -> str | None:
        """The name or id of the chain's model to take from peers; None for a folder."""
        is_path = self.model.startswith(("~", ".")) or os.sep in self.model
        if self.model == "bundled" or is_path or Path(self.model).is_dir():
            return None
        return self.model


def parse_shards(text: str) -> frozenset[ShardId] | None:
    """Return the shards of a list of numbers; none for `hosted`, None for `all`.

    Raises:
        ConfigError: None of these.
    """
    if text == "all":
        return None
    if text == "hosted":
        return frozenset()
    words = [word.strip() for word in text[:MAX_FOLLOW_TEXT].split(",")]
    if not all(w.isascii() and w.isdecimal() and int(w) < 2**16 for w in words):
        raise ConfigError(
            f"follow_shards {text[:40]!r}: expected all, hosted, or as in 1,2"
        )
    return frozenset(map(int, words))


def parse_checkpoint(text: str) -> tuple[int, bytes]:
    """Return the epoch and the root that `EPOCH:ROOT` names.

    Raises:
        ConfigError: Not a number and 32 bytes in hex.
    """
    epoch, _, root = text.partition(":")
    digits = root.removeprefix("0x")
    is_number = epoch.isascii() and epoch.isdecimal() and len(epoch) <= 10
    is_root = len(digits) == 64 and set(digits) <= set("0123456789abcdefABCDEF")
    if not (is_number and int(epoch) < 2**32 and is_root):
        raise ConfigError(f"checkpoint {text[:80]!r}: expected EPOCH:ROOT")
    return int(epoch), bytes.fromhex(digits)


def parse_layers(text: str) -> tuple[int, int]:
    """Return the half-open layer range that `start:end` names.

    Raises:
        ConfigError: Not two ascending non-negative integers.
    """
    start, separator, end = text.partition(":")
    is_plain = text.isascii() and len(text) <= MAX_LAYERS_TEXT
    if not (is_plain and separator and start.isdecimal() and end.isdecimal()):
        raise ConfigError(f"layers {text[:40]!r}: expected start:end, as in 0:2")
    if not int(start) < int(end):
        raise ConfigError(f"layers {text!r}: the end must be above the start")
    if int(end) > MAX_LAYERS:
        raise ConfigError(f"layers {text!r}: no model has more than {MAX_LAYERS}")
    return int(start), int(end)


def build_config(values: dict[str, object], source: str) -> Config:
    """Return the Config of parsed TOML `values`.

    Raises:
        ConfigError: An unknown setting or a value of the wrong kind; names it.
    """
    fields = Config.__dataclass_fields__
    checked: dict[str, object] = {}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(f"{source}: unknown setting {name!r}")
        if isinstance(value, list):
            if not all(isinstance(item, str) for item in value):
                raise ConfigError(f"{source}: {name} must be a list of strings")
            value = tuple(value)
        default = fields[name].default
        expected = type(default) if name != "name" else str
        if type(value) is not expected:
            raise ConfigError(
                f"{source}: {name} must be {expected.__name__}, "
                f"not {type(value).__name__}"
            )
        checked[name] = value
    if "name" not in checked:
        raise ConfigError(f"{source}: the setting `name` is missing")
    config = Config(**checked)  # type: ignore[arg-type]
    _validate(config, source)
    return config


def _validate(config: Config, source: str) -> None:
    name = config.name.replace("-", "").replace("_", "")
    if not (name.isalnum() and name.isascii() and len(config.name) <= 32):
        raise ConfigError(f"{source}: name must be 1 to 32 letters, digits, - or _")
    for setting in ("p2p_port", "rpc_port"):
        if not 0 <= getattr(config, setting) <= 65535:
            raise ConfigError(f"{source}: {setting} must be from 0 to 65535")
    for setting in ("p2p_host", "rpc_host"):
        if not _is_host(getattr(config, setting)):
            raise ConfigError(
                f"{source}: {setting} must be an address of this machine, as 127.0.0.1"
            )
    if not config.model:
        raise ConfigError(f"{source}: model must be a folder, a name, or bundled")
    if config.bls not in ("native", "reference"):
        raise ConfigError(f"{source}: bls must be native or reference")
    if config.precision not in (*Precision, AUTO):
        words = ", ".join(Precision)
        raise ConfigError(f"{source}: precision must be {words} or auto")
    if config.activations not in CODEC_OF_NAME:
        raise ConfigError(f"{source}: activations must be {' or '.join(CODEC_OF_NAME)}")
    if not _DEVICE.fullmatch(config.device):
        raise ConfigError(f"{source}: device must be cpu, cuda, cuda:N or auto")
    if not 1 <= config.torch_threads <= 256:
        raise ConfigError(f"{source}: torch_threads must be from 1 to 256")
    if not -1 <= config.chunk_workers <= 64:
        raise ConfigError(f"{source}: chunk_workers must be from -1 to 64")
    for setting in ("input_price", "output_price"):
        if not 1 <= getattr(config, setting) <= 10**12:
            raise ConfigError(f"{source}: {setting} must be from 1 to 10^12 atoms")
    if config.sync not in ("snapshot", "replay"):
        raise ConfigError(f"{source}: sync must be snapshot or replay")
    if not 1 <= config.snapshot_after_epochs <= 10**6:
        raise ConfigError(f"{source}: snapshot_after_epochs must be from 1 to 10^6")
    if config.checkpoint:
        try:
            parse_checkpoint(config.checkpoint)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
    if not 1 <= config.weights_cache_mb <= 10**9:
        raise ConfigError(f"{source}: weights_cache_mb must be from 1 to 10^9")
    if config.layers and config.layers != AUTO:
        try:
            parse_layers(config.layers)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error


def _is_host(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return text == "localhost"
    return True

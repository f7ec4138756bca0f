"""
Manifests: what to run, what to do to it, and how far it has to come.

    name = "faults"
    blocks = 30

    [[node]]
    name = "node0"
    stake = 100

    [[step]]
    kind = "kill"
    at = 8
    node = "node0"

Reading checks everything that can be known without running: types, ranges, unknown
words, names, and heights.  Reference: docs/testnet.md
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from chain.records.params import ChainParams
from consensus.params import ConsensusParams
from genesis.presets import DEVNET_PARAMS
from p2pchain.testnet.errors import ManifestError
from p2pchain.testnet.steps import (
    ALL,
    Disconnect,
    Equivocate,
    Join,
    Kill,
    Leave,
    NodeName,
    Pause,
    Restart,
    Step,
    Wipe,
    get_kind,
    get_nodes,
)

MIN_VALIDATORS = 4
"""The fewest of which one may fail."""
MAX_VALIDATORS = 7
"""The fewest of which two may; more only make a small machine slower."""
MAX_NODES = 12
MAX_BLOCKS = 10_000
INTERVAL_MS = 500
"""Blocks twice as fast as a devnet's: what is waited for here are heights."""

FOR_ALL = Kill | Restart | Pause
"""Kinds that may name `ALL`."""


class Node(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One process."""

    name: NodeName
    stake: Annotated[int, Meta(ge=0, le=10**9)] = 0
    """Coins staked in genesis; 0 for a node without a vote."""
    start_at: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Height from which on it takes part; its home is made then.  0: from the start."""
    layers: Annotated[str, Meta(pattern="^([0-9]+:[0-9]+)?$")] = ""
    """Layers of the bundled model that it hosts, start:end.  Costs a torch worker."""


class Load(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Transfers that go on from the first block to the last step."""

    rate: Annotated[float, Meta(ge=0, le=200)] = 5.0
    """Transfers per second; 0 for none."""
    wallets: Annotated[int, Meta(ge=2, le=64)] = 6
    cross_shard: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Part of them whose recipient is in another shard."""


class Manifest(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"nodes": "node", "steps": "step"},
):
    """A whole run."""

    name: NodeName
    nodes: tuple[Node, ...]
    blocks: Annotated[int, Meta(ge=1, le=MAX_BLOCKS)]
    """Height that every node has to reach."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    """Of keys and of the load."""
    delay_ms: Annotated[int, Meta(ge=0, le=2000)] = 0
    """Added to every byte between nodes, one way."""
    stall_s: Annotated[float, Meta(ge=5, le=600)] = 60.0
    """Without a new block, or a node behind, for so long while nothing is disturbed:
    the run has failed."""
    params: dict[str, int] = {}
    """Changes to the devnet's chain and consensus parameters, by name."""
    load: Load = Load()
    steps: tuple[Step, ...] = ()

    @property
    def validators(self) -> tuple[Node, ...]:
        """The first set."""
        return tuple(node for node in self.nodes if node.stake)

    def get_node(self, name: str) -> Node:
        """Return the node called `name`."""
        return next(node for node in self.nodes if node.name == name)


def load_manifest(path: Path) -> Manifest:
    """Return the manifest in a file.

    Raises:
        ManifestError: It cannot be read or run.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: {error}") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: str, source: str = "manifest") -> Manifest:
    """Return the manifest that `text` spells.

    Raises:
        ManifestError: Not TOML, or something in it is wrong; names it.
    """
    try:
        values = tomllib.loads(text)
        manifest = msgspec.convert(values, Manifest)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ManifestError(f"{source}: {error}") from error
    try:
        validate_manifest(manifest)
    except ManifestError as error:
        raise ManifestError(f"{source}: {error}") from error
    return manifest


def validate_manifest(manifest: Manifest) -> None:
    """Refuse what could not be run.

    Raises:
        ManifestError: Says what, and why.
    """
    _validate_nodes(manifest)
    split_params(manifest.params)
    for step in manifest.steps:
        _validate_step(manifest, step)
    _validate_stakes(manifest)


def split_params(changes: dict[str, int]) -> tuple[ChainParams, ConsensusParams]:
    """Return the parameters of a network with these changes to the devnet's.

    Raises:
        ManifestError: An unknown name or an impossible value.
    """
    changes = {"interval_ms": INTERVAL_MS} | changes
    chain = msgspec.structs.asdict(DEVNET_PARAMS.chain)
    consensus = msgspec.structs.asdict(DEVNET_PARAMS.consensus)
    for name, value in changes.items():
        group = chain if name in chain else consensus
        if name not in group:
            known = ", ".join([*consensus, *chain])
            raise ManifestError(f"params: no {name!r}; there are {known}")
        group[name] = value
    return _build(ChainParams, chain), _build(ConsensusParams, consensus)


def _build(kind: type[Any], values: dict[str, int]) -> Any:
    try:
        return msgspec.convert(list(values.values()), kind)
    except msgspec.ValidationError as error:
        index = str(error).partition("$[")[2].partition("]")[0]
        name = [*values][int(index)] if index.isdecimal() else "?"
        raise ManifestError(f"params: {name}: {error}") from error


def _validate_nodes(manifest: Manifest) -> None:
    names = [node.name for node in manifest.nodes]
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"node {name!r} stands there twice")
        if name == ALL:
            raise ManifestError(f"no node can be called {ALL!r}: steps mean every one")
    if len(names) > MAX_NODES:
        raise ManifestError(f"{len(names)} nodes, at most {MAX_NODES} are run")
    count = len(manifest.validators)
    if not MIN_VALIDATORS <= count <= MAX_VALIDATORS:
        raise ManifestError(
            f"{count} nodes have a stake; {MIN_VALIDATORS} to {MAX_VALIDATORS} are run"
        )
    for node in manifest.nodes:
        if node.start_at >= manifest.blocks:
            raise ManifestError(
                f"node {node.name}: start_at {node.start_at} is not below the end, "
                f"{manifest.blocks}"
            )
        if node.stake and node.start_at:
            raise ManifestError(
                f"node {node.name}: a validator of genesis starts at 0; leave stake "
                "or start_at out"
            )


def _validate_stakes(manifest: Manifest) -> None:
    total = sum(node.stake for node in manifest.validators)
    for node in manifest.validators:
        if 3 * node.stake >= total:
            raise ManifestError(
                f"node {node.name}: {node.stake} of {total} coins are a third or more, "
                "which no single validator may hold"
            )


def _validate_step(manifest: Manifest, step: Step) -> None:
    where = f"step {get_kind(step)} at {step.at}"
    if step.at >= manifest.blocks:
        raise ManifestError(f"{where}: not below the end, {manifest.blocks}")
    known = {node.name: node for node in manifest.nodes}
    for name in get_nodes(step):
        if name == ALL and isinstance(step, FOR_ALL):
            continue
        if name not in known:
            raise ManifestError(
                f"{where}: no node {name!r}; there are {', '.join(known)}"
            )
        if known[name].start_at >= step.at:
            raise ManifestError(
                f"{where}: node {name} starts only at {known[name].start_at}"
            )
    match step:
        case Disconnect(nodes=nodes):
            if not 0 < len(set(nodes)) == len(nodes) < len(known):
                raise ManifestError(
                    f"{where}: `nodes` are some of the nodes, each once, and not all"
                )
            if not (step.is_deaf or step.is_dumb):
                raise ManifestError(f"{where}: neither deaf nor dumb cuts nothing")
            if any(node.layers for node in manifest.nodes):
                raise ManifestError(
                    f"{where}: a node that hosts layers tells everybody its own "
                    "address on chain, so nobody can be cut off from it"
                )
        case Join(node=name):
            if known[name].stake:
                raise ManifestError(f"{where}: {name} is a validator already")
        case Leave(node=name) | Equivocate(node=name):
            if not known[name].stake and not _joins_before(manifest, name, step.at):
                raise ManifestError(f"{where}: {name} is no validator")
        case Kill() | Restart() | Pause() | Wipe():
            pass


def _joins_before(manifest: Manifest, name: str, height: int) -> bool:
    return any(
        isinstance(step, Join) and step.node == name and step.at < height
        for step in manifest.steps
    )

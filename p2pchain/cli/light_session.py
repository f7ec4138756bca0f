"""
What light commands share: which node they ask, what they trust, where they keep it.
"""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chain.errors import ProvenFork, StaleAnswer
from genesis.files import MAX_GENESIS_BYTES, load_genesis, parse_genesis
from genesis.genesis import Genesis, compute_chain_id
from p2pchain.api.render import to_time
from p2pchain.cli.output import Output
from p2pchain.cli.session import find_public_url, get_home_path
from p2pchain.client import RpcClient
from p2pchain.errors import BadAnswer, TrustError
from p2pchain.light.client import LightClient, get_clock_ms, load_checkpoint
from p2pchain.light.fork_file import save_fork
from p2pchain.light.trust import Age, Trust
from p2pchain.light.trust_file import load_trust, save_trust

LATE_BLOCKS = 30
"""Blocks missing by the clock from which on we say that the node may hide some."""

WORDS = {
    Age.FRESH: "whoever signs a second chain now loses stake for it",
    Age.FADING: "older than the evidence window: to sign a second chain of that time "
    "costs nobody anything any more",
    Age.STALE: "older than the unbonding period: who signed then may have no stake "
    "left to lose; compare EPOCH:ROOT with somebody you know",
}


def add_light_options(parser: ArgumentParser) -> None:
    """Add what a light client may begin with, and where it keeps its trust."""
    group = parser.add_argument_group("trust of the light client")
    group.add_argument(
        "--state", metavar="FILE", help="where trust is kept (default: HOME/light.json)"
    )
    group.add_argument(
        "--genesis", metavar="FILE", help="begin from this genesis.json, not the home's"
    )
    group.add_argument(
        "--chain-id",
        metavar="HEX",
        type=_hash,
        help="begin from the genesis that the node has, if this is its hash",
    )
    group.add_argument(
        "--trust",
        metavar="EPOCH:ROOT",
        type=_checkpoint,
        help="trust the validator set of that epoch, whose root somebody vouches for",
    )
    group.add_argument(
        "--accept-stale",
        action="store_true",
        help="follow the chain from a trust older than the unbonding period; for "
        "networks whose old keys nobody would buy",
    )
    group.add_argument(
        "--witness",
        metavar="URL",
        action="append",
        default=[],
        help="ask this node for its newest block too; may be given several times",
    )


@contextmanager
def open_light(args: Namespace, output: Output) -> Iterator[LightClient]:
    """Give a light client that has caught up; what it learnt is kept in any case.

    Raises:
        TrustError: Nothing to begin with, or it is of another network or stale.
        ProvenFork: Two chains are signed; the proof is kept beside the trust.
        HomeError, NodeUnreachable: There is no node to ask.
        RemoteError, MissingError: The node lies, or is behind.
    """
    path = get_trust_path(args)
    rpc = open_public_client(args)
    kept = load_trust(path)
    trust = _begin(args, rpc, kept)
    client = LightClient(rpc, trust)
    if args.trust is not None:
        client.trust = load_checkpoint(client, *args.trust)
    if not args.accept_stale:
        _validate_age(client.trust)
    try:
        _warn_of_age(client.trust, output)
        client.sync()
        for url in args.witness:
            _ask_witness(client, url, output)
        _warn_of_delay(client.trust, output)
        yield client
    except ProvenFork as fork:
        _keep_fork(fork, path.parent, output)
        raise
    finally:
        if client.trust != kept:
            save_trust(client.trust, path)


def open_public_client(args: Namespace) -> RpcClient:
    """Return a client of the node that --rpc or the home names, without any token."""
    return RpcClient(find_public_url(args))


def get_trust_path(args: Namespace) -> Path:
    """Return the file of --state, or the home's."""
    if args.state:
        return Path(args.state).expanduser().absolute()
    return get_home_path(args) / "light.json"


def describe_trust(trust: Trust, now_ms: int) -> tuple[dict[str, Any], str]:
    """Return a trust as JSON and as text."""
    age_ms = trust.compute_age_ms(now_ms)
    age, newest = trust.judge(age_ms), trust.newest
    root = "0x" + trust.validators.compute_root().hex()
    document: dict[str, Any] = {
        "network": trust.network,
        "chain_id": "0x" + trust.chain_id.hex(),
        "epoch": trust.epoch,
        "validators": len(trust.validators),
        "validators_root": root,
        "trust": f"{trust.epoch}:{root}",
        "height": None if newest is None else str(newest.height),
        "time": to_time(trust.since_ms),
        "age_ms": age_ms,
        "age": age.value,
        "evidence_ms": trust.evidence_ms,
        "unbonding_ms": trust.unbonding_ms,
        "bridged_ms": trust.bridged_ms,
        "bridged": trust.judge(trust.bridged_ms).value,
    }
    block = "none yet" if newest is None else f"{newest.height}"
    text = (
        f"network   {trust.network} ({document['chain_id'][:18]}...)\n"
        f"block     {block}, known up to {document['time']}\n"
        f"trust     {document['trust']} ({len(trust.validators)} validators)\n"
        f"age       {format_span(age_ms)}, {age.value}: {WORDS[age]}\n"
        f"period    double votes are punished for {format_span(trust.evidence_ms)}, "
        f"stake is locked for {format_span(trust.unbonding_ms)} at least"
    )
    if trust.judge(trust.bridged_ms) is not Age.FRESH:
        text += (
            f"\nbridged   {format_span(trust.bridged_ms)} in one step: "
            f"{WORDS[trust.judge(trust.bridged_ms)]}"
        )
    return document, text


def format_span(span_ms: int) -> str:
    """Return a time span for people, rounded down."""
    seconds = span_ms // 1000
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    if seconds < 172_800:
        return f"{seconds // 3600} h"
    return f"{seconds // 86_400} days"


def _begin(args: Namespace, rpc: RpcClient, kept: Trust | None) -> Trust:
    """Return the trust in the file, or a new one."""
    wanted = args.chain_id
    if args.genesis:
        genesis = load_genesis(Path(args.genesis).expanduser())
        if wanted not in (None, compute_chain_id(genesis)):
            raise TrustError(f"{args.genesis} does not have the hash of --chain-id")
        wanted = compute_chain_id(genesis)
    if kept is not None:
        if wanted not in (None, kept.chain_id):
            raise TrustError(
                f"{get_trust_path(args)} follows another network, {kept.network}; "
                "choose another file with --state"
            )
        return kept
    if args.genesis:
        return Trust.from_genesis(genesis)
    own = get_home_path(args) / "genesis.json"
    if wanted is not None:
        return Trust.from_genesis(_fetch_genesis(rpc, wanted))
    if own.is_file():
        return Trust.from_genesis(load_genesis(own))
    raise TrustError(
        f"there is nothing to trust yet: {own} is missing; give --genesis FILE, or "
        "--chain-id HEX and the node's genesis is taken if that is its hash"
    )


def _fetch_genesis(rpc: RpcClient, chain_id: bytes) -> Genesis:
    answer = rpc.call_bounded("genesis", {}, 2 * MAX_GENESIS_BYTES)
    document = answer.get("genesis") if isinstance(answer, dict) else None
    genesis = parse_genesis(json.dumps(document))
    if compute_chain_id(genesis) != chain_id:
        raise BadAnswer("the node's genesis does not have the hash of --chain-id")
    return genesis


def _ask_witness(client: LightClient, url: str, output: Output) -> None:
    """Compare with what another node shows: a fork is an error, a delay is said.

    Raises:
        RemoteError: The two nodes are on two chains, or the witness lies.
        NodeUnreachable: The witness does not answer.
    """
    before = client.trust.newest
    witness = LightClient(RpcClient(url), client.trust)
    try:
        witness.sync()
    except StaleAnswer as error:
        output.say(f"witness {url} is behind: {error}")
        return
    client.trust = witness.trust
    newest = witness.trust.newest
    if before is not None and newest is not None:
        missing = newest.height - before.height
        if missing > LATE_BLOCKS:
            output.say(
                f"witness {url} shows {missing} blocks more: the node is behind, or it "
                "hides them"
            )


def _keep_fork(fork: ProvenFork, folder: Path, output: Output) -> None:
    """Write a fork down and say what to do with it."""
    files = save_fork(fork, folder)
    output.say(
        f"a fork: two quorums signed two chains; both blocks are in {files.blocks}"
    )
    if files.evidence is None:
        output.say(
            "they are of different views, so what convicts their signers is at the "
            "nodes; show the file to those who run the network"
        )
        return
    output.say(
        f"it convicts {len(files.guilty)} validators: bring it to a node of yours with "
        f"`p2pchain evidence submit {files.evidence}`"
    )


def _warn_of_age(trust: Trust, output: Output) -> None:
    age_ms = trust.compute_age_ms(get_clock_ms())
    age = trust.judge(age_ms)
    if age is not Age.FRESH:
        output.say(f"trust is {format_span(age_ms)} old, {WORDS[age]}")


def _validate_age(trust: Trust) -> None:
    """Refuse to follow anybody from a trust that is worth nothing any more.

    Raises:
        TrustError: It is stale.
    """
    age_ms = trust.compute_age_ms(get_clock_ms())
    if trust.judge(age_ms) is Age.STALE:
        raise TrustError(
            f"what is trusted is of {format_span(age_ms)} ago, and after "
            f"{format_span(trust.unbonding_ms)} those who signed may have no stake "
            "left to lose: nothing that a node shows can be told from a forgery. Ask "
            "somebody you know for the `trust` of `p2pchain light status` and give it "
            "with --trust EPOCH:ROOT, or take the risk with --accept-stale"
        )


def _warn_of_delay(trust: Trust, output: Output) -> None:
    """Say when the newest block is so old that there may be newer ones."""
    age_ms = trust.compute_age_ms(get_clock_ms())
    if age_ms > LATE_BLOCKS * trust.interval_ms:
        output.say(
            f"the newest block that the node shows is {format_span(age_ms)} old: the "
            "network stands still, the node is behind, or it hides newer ones"
        )


def _hash(text: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != 32:
        raise ArgumentTypeError(f"{text[:80]!r} is not 32 bytes in hex")
    return data


def _checkpoint(text: str) -> tuple[int, bytes]:
    epoch, _, root = text.partition(":")
    is_number = epoch.isascii() and epoch.isdecimal() and len(epoch) <= 10
    if not is_number or int(epoch) >= 2**32:
        raise ArgumentTypeError(f"{text[:80]!r} is no EPOCH:ROOT")
    return int(epoch), _hash(root)

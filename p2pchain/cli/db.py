"""`p2pchain db`: a node's database, everything computed again, or begun anew."""

import time
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from chain.checks.database import Verdict, verify_database
from chain.storage.leveldb import LevelStore
from genesis.files import load_genesis
from genesis.state import build_chain_spec
from p2pchain.cli.options import add_command, add_group
from p2pchain.cli.output import Output, format_amount
from p2pchain.cli.session import open_home
from p2pchain.errors import HomeError
from p2pchain.node.repair import finish_repair, replace_database
from primitives import bls

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands

SHOWN = 20
"""Findings shown to a person; --json has all."""


def add_parser(commands: "Commands") -> None:
    """Add `db`."""
    group = add_group(commands, "db", "the database of a node that does not run")
    add_command(
        group,
        "verify",
        run_verify,
        "compute every hash, root and balance again and say what differs; "
        "exit code 1 if anything does",
    )
    add_command(
        group,
        "repair",
        run_repair,
        "replace a damaged database; vouchers stay, the next start takes the chain "
        "from peers",
    )


def run_verify(args: Namespace, output: Output) -> int:
    """Verify the database of a home."""
    home = open_home(args)
    spec = build_chain_spec(load_genesis(home.genesis))
    if not (home.data / "CURRENT").is_file():
        raise HomeError(f"{home.path} has no database yet; the node never ran")
    started = time.monotonic()
    with home.lock(), LevelStore(home.data) as store:
        verdict = verify_database(spec, store, bls, output.say)
    output.show(build_document(verdict), describe(verdict, time.monotonic() - started))
    return 0 if verdict.is_sound else 1


def run_repair(args: Namespace, output: Output) -> None:
    """Replace the database of a home by one without a chain."""
    home = open_home(args)
    with home.lock():
        finish_repair(home.data)
        if not (home.data / "CURRENT").is_file():
            raise HomeError(f"{home.path} has no database; there is nothing to repair")
        repaired = replace_database(home.data)
    lines = [
        f"{repaired.kept:,} entries that only this node has were kept",
        *(f"LOST: {what}" for what in repaired.lost),
        f"the damaged database is {repaired.old}; delete it once the node runs",
        "start the node, and it takes the chain from its peers",
    ]
    document = {
        "kept": repaired.kept,
        "lost": list(repaired.lost),
        "old": str(repaired.old),
    }
    output.show(document, "\n".join(lines))


def build_document(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain data."""
    return {
        "sound": verdict.is_sound,
        "height": verdict.height,
        "blocks": verdict.blocks,
        "buckets": verdict.buckets,
        "keys": verdict.keys,
        "past_states": verdict.states,
        "shards": [
            {
                "shard": shard,
                **{k: str(v) for k, v in msgspec.structs.asdict(books).items()},
                "held": str(books.held),
                "created": str(books.created),
                "conserved": books.is_conserved,
            }
            for shard, books in verdict.books.items()
        ],
        "findings": [asdict(finding) for finding in verdict.findings],
    }


def describe(verdict: Verdict, seconds: float) -> str:
    """Return a verdict for people."""
    lines = [
        f"{verdict.blocks:,} blocks up to {verdict.height}, {verdict.keys:,} keys in "
        f"{verdict.buckets:,} buckets, {verdict.states} past states, {seconds:.1f} s"
    ]
    if verdict.books:
        held = sum(books.held for books in verdict.books.values())
        created = sum(books.created for books in verdict.books.values())
        lines.append(f"held {format_amount(held)}, created {format_amount(created)}")
    if verdict.is_sound:
        return "\n".join([*lines, "sound: everything is what it has to be"])
    findings = verdict.findings
    lines += [f"{finding.what}: {finding.message}" for finding in findings[:SHOWN]]
    if len(findings) > SHOWN:
        lines.append(f"and {len(findings) - SHOWN} more; --json has them")
    lines.append(
        f"NOT SOUND: {len(findings)} findings; `p2pchain db repair` keeps vouchers and "
        "lets the next start take the chain from peers"
    )
    return "\n".join(lines)

"""
Files about a fork that a light client saw: for people, and for `evidence submit`.

A fork is the one thing that must not be forgotten: two quorums signed two chains, and
the two certificates are the proof.  They are kept before anything else is said.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain.errors import ProvenFork
from chain.light.client import LightBlock
from chain.light.fork import find_evidence
from chain.records.header import compute_block_hash
from consensus.evidence import find_accused, get_equivocation
from primitives.codec import encode
from wallet.files import write_atomically


@dataclass(frozen=True, slots=True)
class ForkFiles:
    """Where a fork was written down."""

    blocks: Path
    """JSON with both blocks and what makes them final."""
    evidence: Path | None
    """Hex for `evidence submit`; None where the two prove nothing by themselves."""
    guilty: tuple[bytes, ...]
    """BLS public keys that the evidence convicts."""


def save_fork(fork: ProvenFork, folder: Path) -> ForkFiles:
    """Write a fork down beside the trust; an earlier one of the block is replaced."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"fork-{fork.second.header.height}"
    evidence = find_evidence(fork)
    guilty: tuple[bytes, ...] = ()
    document: dict[str, Any] = {
        "message": str(fork),
        "known": _render(fork.first),
        "shown": _render(fork.second),
        "evidence": None,
    }
    path = None
    if evidence is not None:
        validators = fork.first.validators
        accused = find_accused(evidence, validators)
        guilty = tuple(validators.get_public_keys(accused))
        document["evidence"] = "0x" + encode(evidence).hex()
        document["offence"] = get_equivocation(evidence).value
        document["guilty"] = ["0x" + key.hex() for key in guilty]
        path = folder / f"{name}.evidence"
        write_atomically(path, encode(evidence).hex() + "\n", 0o600)
    blocks = folder / f"{name}.json"
    write_atomically(blocks, json.dumps(document, indent=2) + "\n", 0o600)
    return ForkFiles(blocks, path, guilty)


def _render(block: LightBlock) -> dict[str, Any]:
    header, certificate = block.header, block.certificate
    return {
        "height": str(header.height),
        "hash": "0x" + compute_block_hash(header).hex(),
        "epoch": header.epoch,
        "final_in_view": str(certificate.view),
        "certificate": "0x" + encode(certificate).hex(),
        "light_block": "0x" + encode(block).hex(),
    }

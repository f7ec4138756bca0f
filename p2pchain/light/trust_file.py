"""
The file in which a light client keeps its trust: JSON, so that people can look at it.

What counts is `record`, the canonical bytes with a hash against damage; the rest says
the same in words.  Nothing in it is secret, but whoever can write it decides what its
owner believes, so it is readable and writable by the owner alone.
"""

import json
from pathlib import Path

from p2pchain.errors import TrustError
from p2pchain.light.trust import Trust
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from primitives.hashing import compute_hash
from wallet.files import write_atomically

VERSION = 2
"""Version 1 kept the newest header without its certificate."""
MAX_FILE_BYTES = 2 * 1024 * 1024
"""A record of at most 350 kB as hex, several times over."""

_DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError, DecodeError)


def save_trust(trust: Trust, path: Path) -> None:
    """Write the trust; a crash leaves the old file or the new one."""
    record = encode(trust)
    newest = trust.newest
    document = {
        "version": VERSION,
        "network": trust.network,
        "chain_id": "0x" + trust.chain_id.hex(),
        "epoch": trust.epoch,
        "validators_root": "0x" + trust.validators.compute_root().hex(),
        "height": None if newest is None else str(newest.height),
        "hash": _compute_check(record),
        "record": record.hex(),
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=2) + "\n", 0o600)


def load_trust(path: Path) -> Trust | None:
    """Return the trust in a file, or None if there is no file.

    Raises:
        TrustError: It is damaged, or of another version.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        document = json.loads(data)
        if document["version"] != VERSION:
            raise TrustError(
                f"{path} is of version {document['version']!r}, not "
                f"{VERSION}; move it away and begin again"
            )
        record = bytes.fromhex(document["record"])
        if document["hash"] != _compute_check(record):
            raise ValueError("its hash is another one")
        return decode(Trust, record)
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        raise TrustError(
            f"{path} is damaged ({error}); move it away and begin again from "
            "genesis.json or with --trust"
        ) from error


def _compute_check(record: bytes) -> str:
    return compute_hash("light-trust", record).hex()

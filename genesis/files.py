"""genesis.json: the only file that everybody in a network has to share."""

import json
from pathlib import Path

from genesis.errors import CorruptGenesis
from genesis.genesis import Genesis
from genesis.json_form import from_json, to_json
from genesis.validation import validate_genesis
from primitives.codec import decode, encode
from primitives.errors import DecodeError

MAX_GENESIS_BYTES = 4 * 1024 * 1024
"""128 validators and ten thousand allocations are below 3 MB."""


def save_genesis(genesis: Genesis, path: Path) -> None:
    """Write the genesis as JSON; an existing file is replaced."""
    path.write_text(dump_genesis(genesis), encoding="utf-8")


def load_genesis(path: Path) -> Genesis:
    """Return the validated genesis of a file.

    Raises:
        CorruptGenesis: Unreadable, not a genesis, or one that cannot start a chain.
    """
    try:
        if path.stat().st_size > MAX_GENESIS_BYTES:
            raise CorruptGenesis(f"{path} is longer than {MAX_GENESIS_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptGenesis(f"cannot read {path}: {error}") from error
    try:
        return parse_genesis(text)
    except CorruptGenesis as error:
        raise CorruptGenesis(
            f"{path} is no genesis of this version of p2pchain: {error}"
        ) from error


def dump_genesis(genesis: Genesis) -> str:
    """Return the JSON text of a genesis."""
    return json.dumps(to_json(genesis), indent=2) + "\n"


def parse_genesis(text: str) -> Genesis:
    """Return the validated genesis of a JSON text.

    Raises:
        CorruptGenesis: Not a genesis, or one that cannot start a chain.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptGenesis(f"not JSON: {error}") from error
    genesis = from_json(Genesis, data)
    try:
        genesis = decode(Genesis, encode(genesis))
    except DecodeError as error:
        raise CorruptGenesis(str(error)) from error
    validate_genesis(genesis)
    return genesis

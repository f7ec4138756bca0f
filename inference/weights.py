"""
The weights of a model: which tensors a directory holds, and one root that names them.

Theory of operation
-------------------
A Hugging Face directory spreads its tensors over one or several safetensors files.
The manifest forgets the files: it lists each tensor by name with dtype, shape and the
BLAKE3 hash of its bytes, and config.json as one more piece, because the same weights
under another configuration are another model.  Its Merkle root is the weights root,
which names the model, together with the tokenizer's hash.  Sharding the files
differently leaves it as it is; one changed bit anywhere changes it.

A worker that reads only some tensors hashes exactly those and reports the hashes, and
the node compares them with its manifest: nobody reads what it does not serve.  BLAKE3
is itself a tree over 1 KiB chunks, so pieces of a tensor can later be proven alone.

No torch here: the node computes manifests in its own process.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from inference.errors import BadWeights
from inference.safetensors_file import TensorEntry, read_entries
from primitives.codec import Record, encode
from primitives.merkle import compute_list_root
from primitives.types import U63, Hash32

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

MAX_JSON_BYTES = 64 * 1024 * 1024
"""An index of a model with a million tensors stays below this."""
MAX_TENSORS = 1_000_000
"""The largest mixture-of-experts models have about a hundred thousand."""
_HASH_STEP_BYTES = 8 * 1024 * 1024
"""How much is held in memory while hashing, whatever the tensor's size."""


class Piece(Record):
    """One entry of the manifest: a tensor, or config.json."""

    name: str
    dtype: str
    """As safetensors spells it; empty for config.json."""
    shape: tuple[U63, ...]
    blob_hash: Hash32
    """BLAKE3 of the bytes."""


class Manifest(Record):
    """Everything that a model computes from, in order of name."""

    pieces: tuple[Piece, ...]

    def compute_root(self) -> bytes:
        """Return the weights root, 32 bytes."""
        return compute_list_root([encode(piece) for piece in self.pieces])


@dataclass(frozen=True, slots=True)
class Weights:
    """What a model directory holds, before any tensor is read."""

    directory: Path
    entries: dict[str, TensorEntry]
    """Every tensor by name."""

    def compute_manifest(self) -> Manifest:
        """Read every byte once and return the manifest.

        Raises:
            BadWeights: A file changed or vanished meanwhile.
        """
        config = _read_bounded(self.directory / CONFIG_FILE)
        pieces = [Piece(CONFIG_FILE, "", (), blake3(config).digest())]
        for entry in self.entries.values():
            digest = _hash_entry(entry)
            pieces.append(Piece(entry.name, entry.dtype, entry.shape, digest))
        return Manifest(tuple(sorted(pieces, key=lambda piece: piece.name)))


def open_weights(directory: Path) -> Weights:
    """Return the tensors of a Hugging Face directory; reads headers only.

    Raises:
        BadWeights: No safetensors (pickles are never opened), or damaged ones.
    """
    entries: dict[str, TensorEntry] = {}
    for path in _find_files(directory):
        for entry in read_entries(path):
            if entry.name in entries:
                raise BadWeights(f"{entry.name[:100]} is in two files")
            entries[entry.name] = entry
    if not 0 < len(entries) <= MAX_TENSORS:
        raise BadWeights(f"{len(entries)} tensors in {directory.name}")
    if CONFIG_FILE in entries:
        raise BadWeights(f"a tensor is called {CONFIG_FILE}")
    for name in _read_index(directory):
        if name not in entries:
            raise BadWeights(f"{name[:100]} is in the index but in no file")
    return Weights(directory, entries)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of the model directory.

    Raises:
        BadWeights: Not there, too long, or not a JSON object.
    """
    try:
        value = json.loads(_read_bounded(path))
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path.name} is not JSON") from error
    if not isinstance(value, dict):
        raise BadWeights(f"{path.name} is not a JSON object")
    return value


def _find_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise BadWeights(f"{directory} is not a directory")
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    names = sorted(set(_read_index(directory).values()))
    if names:
        return [directory / name for name in names]
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")):
        raise BadWeights("only pickled weights here; convert them to safetensors")
    raise BadWeights(f"no {SINGLE_FILE} in {directory.name}")


def _read_index(directory: Path) -> dict[str, str]:
    """Return tensor name -> file name, empty where there is no index to follow."""
    path = directory / INDEX_FILE
    if (directory / SINGLE_FILE).is_file() or not path.is_file():
        return {}
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadWeights(f"{INDEX_FILE}: no weight_map")
    for name in weight_map.values():
        # A file beside the index: never a path that leads out of the directory.
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise BadWeights(f"{INDEX_FILE}: names a file that is not safetensors")
        if Path(name).name != name:
            raise BadWeights(f"{INDEX_FILE}: names a file in another directory")
    return weight_map


def _hash_entry(entry: TensorEntry) -> bytes:
    digest = blake3()
    for part in _iterate_parts(entry):
        digest.update(part)
    return digest.digest()


def _iterate_parts(entry: TensorEntry) -> Iterator[bytes]:
    try:
        with entry.path.open("rb") as file:
            file.seek(entry.offset)
            left = entry.length
            while left:
                part = file.read(min(left, _HASH_STEP_BYTES))
                if not part:
                    raise BadWeights(f"{entry.path.name} ends inside {entry.name}")
                left -= len(part)
                yield part
    except OSError as error:
        raise BadWeights(f"{entry.path.name}: {error.strerror}") from error


def _read_bounded(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BadWeights(f"{path.name} is longer than {MAX_JSON_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BadWeights(f"{path.name}: {error.strerror}") from error

"""
The weights of a model: which tensors a directory holds, and one root that names them.

Theory of operation
-------------------
A Hugging Face directory spreads its tensors over one or several safetensors files; a
directory that was taken from peers has their parts in a cache (pieces_folder.py).  The
manifest (pieces.py) forgets the files: it lists each tensor by name with dtype, shape
and the hashes of its bytes.  Its Merkle root is the weights root, which names the
model, together with that of the tokenizer's files.  Sharding the files differently
leaves it as it is; one changed bit anywhere changes it.

A worker that reads only some tensors hashes exactly those and reports the hashes, and
the node compares them with its manifest: nobody reads what it does not serve.

No torch here: the node computes manifests in its own process.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from inference.errors import BadWeights
from inference.weights.pieces import (
    CONFIG_FILE,
    MAX_FILE_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_TENSORS,
    PART_BYTES,
    TOKENIZER_FILES,
    Manifest,
    Piece,
    build_file_piece,
)
from inference.weights.pieces_folder import OUTLINE_FILE, read_cached_entries
from inference.weights.safetensors_file import TensorEntry, read_entries

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class StoredTensor(Protocol):
    """One tensor on disk, before its bytes are read."""

    @property
    def name(self) -> str:
        """In the files."""

    @property
    def dtype(self) -> str:
        """As safetensors spells it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, outermost first."""

    @property
    def length(self) -> int:
        """In bytes."""

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with its bytes from `start` on; raises BadWeights."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What a model directory holds, before any tensor is read."""

    directory: Path
    entries: Mapping[str, StoredTensor]
    """Every tensor by name."""

    def compute_manifest(self) -> Manifest:
        """Read every byte once and return the manifest.

        Raises:
            BadWeights: A file changed or vanished meanwhile.
        """
        pieces = [_read_file_piece(self.directory / CONFIG_FILE)]
        pieces += [_hash_entry(entry) for entry in self.entries.values()]
        return Manifest(tuple(sorted(pieces, key=lambda piece: piece.name)))


def compute_tokenizer_manifest(directory: Path) -> Manifest:
    """Read the files that decide how text becomes tokens and return their manifest.

    Raises:
        BadWeights: One cannot be read or is too long.
    """
    paths = (directory / name for name in TOKENIZER_FILES)
    return Manifest(tuple(_read_file_piece(path) for path in paths if path.is_file()))


def open_weights(directory: Path) -> Weights:
    """Return the tensors of a Hugging Face directory; reads headers only.

    Raises:
        BadWeights: No safetensors (pickles are never opened), or damaged ones.
    """
    if (directory / OUTLINE_FILE).is_file():
        return Weights(directory, read_cached_entries(directory))
    entries: dict[str, TensorEntry] = {}
    for path in _find_files(directory):
        for entry in read_entries(path):
            if entry.name in entries:
                raise BadWeights(f"{entry.name[:100]} is in two files")
            entries[entry.name] = entry
    if not 0 < len(entries) <= MAX_TENSORS:
        raise BadWeights(f"{len(entries)} tensors in {directory.name}")
    if any(len(name) > MAX_NAME_CHARACTERS for name in entries):
        raise BadWeights(f"a tensor's name has more than {MAX_NAME_CHARACTERS} letters")
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


def _hash_entry(entry: StoredTensor) -> Piece:
    """Return a tensor's piece; holds one part in memory, whatever the tensor's size."""
    buffer = memoryview(bytearray(min(PART_BYTES, entry.length)))
    parts = []
    for start in range(0, entry.length, PART_BYTES):
        view = buffer[: entry.length - start]
        entry.read_into(view, start)
        parts.append(blake3(view).digest())
    return Piece(entry.name, entry.dtype, entry.shape, entry.length, tuple(parts))


def _read_file_piece(path: Path) -> Piece:
    return build_file_piece(path.name, _read_bounded(path))


def _read_bounded(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadWeights(f"{path.name} is longer than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BadWeights(f"{path.name}: {error.strerror}") from error

"""
The folder of a model that was taken from peers: files, and tensors in the cache.

    HOME/weights/parts/            the cache of parts, shared by all models
    HOME/weights/models/ID/outline what the model consists of
    HOME/weights/models/ID/        config.json and, for a gateway, the tokenizer's files

A worker is given the folder in place of one with safetensors files.  Tensors that are
not in the cache are known by name and shape, and reading one is an error: so a stage
loads exactly the layers that were fetched for it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from inference.errors import BadWeights, DiskFull
from inference.weights.pieces import MAX_OUTLINE_BYTES, PART_BYTES, Outline, Piece
from inference.weights.pieces_store import PieceStore, get_part_path
from primitives.codec import decode, encode
from primitives.errors import DecodeError

OUTLINE_FILE = "outline"
PARTS_FOLDER, MODELS_FOLDER = "parts", "models"


@dataclass(frozen=True, slots=True)
class CachedTensor:
    """One tensor in the cache, or of which nothing is there."""

    piece: Piece
    folder: Path
    """Of the cache."""

    @property
    def name(self) -> str:
        """In the model's files."""
        return self.piece.name

    @property
    def dtype(self) -> str:
        """As safetensors spells it."""
        return self.piece.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, outermost first."""
        return self.piece.shape

    @property
    def length(self) -> int:
        """In bytes."""
        return self.piece.size

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with the tensor's bytes from `start` on.

        Raises:
            BadWeights: A part is not in the cache, or shorter than it must be.
        """
        assert start + len(buffer) <= self.length
        done = 0
        while done < len(buffer):
            number, skipped = divmod(start + done, PART_BYTES)
            size = min(len(buffer) - done, PART_BYTES - skipped)
            self._read_part(number, skipped, buffer[done : done + size])
            done += size

    def _read_part(self, number: int, skipped: int, buffer: memoryview) -> None:
        digest = self.piece.parts[number]
        where = f"part {digest.hex()} of {self.name[:100]}"
        try:
            path = get_part_path(self.folder, digest)
            with path.open("rb", buffering=0) as file:
                if os.preadv(file.fileno(), [buffer], skipped) != len(buffer):
                    raise BadWeights(f"{where} is too short")
        except OSError as error:
            raise BadWeights(f"{where} is not here: {error.strerror}") from error


def read_outline(directory: Path) -> Outline:
    """Return the outline in a model's folder, as it was compared with the chain.

    Raises:
        BadWeights: It is damaged or gone.
    """
    try:
        data = (directory / OUTLINE_FILE).read_bytes()
        return decode(Outline, data, MAX_OUTLINE_BYTES)
    except (OSError, DecodeError) as error:
        raise BadWeights(f"{directory / OUTLINE_FILE}: {error}") from error


def read_cached_entries(directory: Path) -> dict[str, CachedTensor]:
    """Return every tensor of a model's folder by name; raises BadWeights."""
    parts = directory.parent.parent / PARTS_FOLDER
    outline = read_outline(directory)
    return {piece.name: CachedTensor(piece, parts) for piece in outline.tensors}


def save_outline(directory: Path, outline: Outline) -> None:
    """Make a model's folder; raises DiskFull."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DiskFull(f"{directory}: {error.strerror}") from error
    _write(directory / OUTLINE_FILE, encode(outline))


def save_files(directory: Path, outline: Outline, store: PieceStore) -> bool:
    """Write the model's files whose parts are all here; False if one of them is bad.

    Raises:
        DiskFull: The disk does not take them.
    """
    for piece in outline.files:
        parts = piece.list_parts()
        if all(part.digest in store for part in parts):
            data = [store.get(part.digest) for part in parts]
            if None in data:
                return False
            _write(directory / piece.name, b"".join(each or b"" for each in data))
    return True


def _write(path: Path, data: bytes) -> None:
    """Replace a file; a crash leaves the old one or the new one."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        raise DiskFull(f"{path}: {error.strerror}") from error

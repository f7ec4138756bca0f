"""
Reading safetensors without torch: where each tensor's bytes lie, and the bytes.

    8 bytes little-endian n | n bytes of JSON | tensors, back to back, no gaps

The JSON maps names to dtype, shape and [begin, end) counted from the end of the
JSON.  A file that deviates in any way is refused before anything is allocated for it.

Format: https://github.com/huggingface/safetensors#format
"""

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from inference.errors import BadWeights

MAX_HEADER_BYTES = 100_000_000
"""The bound that the reference implementation sets as well."""
MAX_DIMENSIONS = 8
"""No layer has weights of more dimensions; keeps one entry small."""

DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Size of one element; other dtypes belong to quantised models and are refused."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor in a file, before its bytes are read."""

    name: str
    dtype: str
    """As safetensors spells it, one of `DTYPE_BYTES`."""
    shape: tuple[int, ...]
    path: Path
    offset: int
    """From the start of the file, in bytes."""
    length: int
    """In bytes."""

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with the tensor's bytes from `start` on.

        Raises:
            BadWeights: The file has become shorter or cannot be read.
        """
        assert start + len(buffer) <= self.length
        offset, done = self.offset + start, 0
        try:
            with self.path.open("rb", buffering=0) as file:
                while done < len(buffer):
                    count = os.preadv(file.fileno(), [buffer[done:]], offset + done)
                    if count == 0:
                        raise BadWeights(f"{self.path.name} ends inside {self.name}")
                    done += count
        except OSError as error:
            raise BadWeights(f"{self.path.name}: {error.strerror}") from error


def read_entries(path: Path) -> list[TensorEntry]:
    """Return the entries of one safetensors file, in file order.

    Raises:
        BadWeights: Anything that a correct writer does not produce.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            header_bytes = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= header_bytes <= min(
                MAX_HEADER_BYTES, size - 8
            ):
                raise BadWeights(f"{path.name}: header length out of range")
            text = file.read(header_bytes)
    except OSError as error:
        raise BadWeights(f"{path.name}: {error.strerror}") from error
    start = 8 + header_bytes
    entries = [
        _build_entry(path, start, name, fields)
        for name, fields in _parse_header(path, text)
        if name != "__metadata__"
    ]
    entries.sort(key=lambda entry: (entry.offset, entry.length))
    _check_coverage(path, entries, start, size)
    return entries


def _parse_header(path: Path, text: bytes) -> list[tuple[str, Any]]:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadWeights(f"{path.name}: a name appears twice in the header")
        return found

    try:
        header = json.loads(text, object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path.name}: header is not JSON") from error
    if not isinstance(header, dict):
        raise BadWeights(f"{path.name}: header is not an object")
    return list(header.items())


def _build_entry(path: Path, start: int, name: str, fields: Any) -> TensorEntry:
    where = f"{path.name}: {name[:100]}"
    match fields:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            pass
        case _:
            raise BadWeights(f"{where}: dtype, shape or data_offsets missing")
    if dtype not in DTYPE_BYTES:
        raise BadWeights(f"{where}: dtype {dtype[:20]} is not supported")
    if len(shape) > MAX_DIMENSIONS or not all(_is_count(n) for n in shape):
        raise BadWeights(f"{where}: shape is not a list of sizes")
    if not _is_count(begin) or not _is_count(end) or begin > end:
        raise BadWeights(f"{where}: data_offsets are not a range")
    if prod(shape) * DTYPE_BYTES[dtype] != end - begin:
        raise BadWeights(f"{where}: {end - begin} bytes do not fit its shape")
    return TensorEntry(name, dtype, tuple(shape), path, start + begin, end - begin)


def _is_count(value: Any) -> bool:
    # bool is an int to Python, but not to JSON.
    return type(value) is int and 0 <= value < 2**63


def _check_coverage(
    path: Path, entries: list[TensorEntry], start: int, size: int
) -> None:
    position = start
    for entry in entries:
        if entry.offset != position:
            raise BadWeights(f"{path.name}: gap or overlap before {entry.name[:100]}")
        position += entry.length
    if position != size:
        raise BadWeights(f"{path.name}: {size} bytes where {position} are described")

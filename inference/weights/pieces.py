"""
Manifests: what a model consists of, so that any byte of it can be taken from anybody.

Theory of operation
-------------------
A model is a list of pieces, tensors and files, and every piece is cut into parts of
`PART_BYTES`.  The manifest has the BLAKE3 hash of each part, so a part is checked by
itself, whoever sends it and in whatever order:

    model id = hash(weights root, tokenizer root)          on the chain
      weights root   = root of Manifest(config.json, tensors)
      tokenizer root = root of Manifest(tokenizer files, generation_config.json)
        Piece = name, dtype, shape, size, hashes of its parts

config.json stands among the weights because the same weights under another
configuration are another model, and generation_config.json beside the tokenizer
because it says which token ends an answer.  Both manifests together are the outline of
a model; whoever has it, and has compared it with the chain, needs to trust nobody for
the rest.

Which tensors belong to a layer is read from their names: the names of a list of layers
have the layer's number behind one common beginning, `model.layers.` or `h.`, with every
number below the number of layers.  All other tensors are the requester's.

No torch here.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated

from blake3 import blake3
from msgspec import Meta

from inference.errors import BadWeights, UnsupportedModel
from inference.weights.safetensors_file import DTYPE_BYTES, MAX_DIMENSIONS
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.merkle import compute_list_root
from primitives.types import U63, Hash32

CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Files that decide which text becomes which tokens, and which token ends an answer,
in order of name.  No code and no pickle can be among them."""

PART_BYTES = 1024 * 1024
"""Hashed and written in a millisecond, so that a node which serves or takes one never
keeps a vote waiting; its hash is a thirty-thousandth of it."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of config.json and each tokenizer file; the largest vocabularies take half."""
MAX_TENSORS = 200_000
"""The largest mixture-of-experts models have about a hundred thousand; one takes some
four hundred bytes of memory while it is decoded, and a stranger may have sent it."""
MAX_NAME_CHARACTERS = 512
MAX_DTYPE_CHARACTERS = 8
MAX_OUTLINE_BYTES = 60 * 1024 * 1024
"""Of a model of 1.8 TB; one message of the network holds 64 MiB."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is asked for, kept and sent as one: up to `PART_BYTES` of a piece."""

    digest: bytes
    """BLAKE3 of the bytes, and their name everywhere."""
    size: int


class Piece(Record):
    """One entry of a manifest: a tensor, or a file."""

    name: Annotated[str, Meta(max_length=MAX_NAME_CHARACTERS)]
    dtype: Annotated[str, Meta(max_length=MAX_DTYPE_CHARACTERS)]
    """As safetensors spells it; empty for a file."""
    shape: Annotated[tuple[U63, ...], Meta(max_length=MAX_DIMENSIONS)]
    size: U63
    """In bytes."""
    parts: tuple[Hash32, ...]
    """BLAKE3 of every `PART_BYTES` of it in order; the last one may be shorter."""

    @property
    def is_file(self) -> bool:
        """Whether it is a file and not a tensor."""
        return not self.dtype

    @property
    def blob_hash(self) -> bytes:
        """One hash for all its bytes, as `hash_blob` computes it."""
        return _join(self.parts)

    def list_parts(self) -> tuple[Part, ...]:
        """Return its parts in order."""
        last = self.size - PART_BYTES * (len(self.parts) - 1)
        return tuple(
            Part(digest, PART_BYTES if number < len(self.parts) else last)
            for number, digest in enumerate(self.parts, start=1)
        )


class Manifest(Record):
    """Pieces in order of name."""

    pieces: Annotated[tuple[Piece, ...], Meta(max_length=MAX_TENSORS + 1)]

    def compute_root(self) -> bytes:
        """Return the root that names all of it, 32 bytes."""
        return compute_list_root([encode(piece) for piece in self.pieces])


class Outline(Record):
    """All that a model consists of."""

    weights: Manifest
    """config.json and the tensors."""
    tokenizer: Manifest

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, those of the tokenizer last."""
        return self.weights.pieces + self.tokenizer.pieces

    @property
    def files(self) -> tuple[Piece, ...]:
        """The pieces that are files."""
        return tuple(piece for piece in self.pieces if piece.is_file)

    @property
    def tensors(self) -> tuple[Piece, ...]:
        """The pieces that are tensors."""
        return tuple(piece for piece in self.weights.pieces if not piece.is_file)


def hash_blob(data: memoryview) -> bytes:
    """Return what `Piece.blob_hash` is of a piece of these bytes."""
    return _join(hash_parts(data))


def hash_parts(data: memoryview) -> tuple[bytes, ...]:
    """Return the hashes of the parts of `data`, which is one-dimensional bytes."""
    return tuple(
        blake3(data[start : start + PART_BYTES]).digest()
        for start in range(0, len(data), PART_BYTES)
    )


def build_file_piece(name: str, data: bytes) -> Piece:
    """Return the piece of a file."""
    return Piece(name, "", (), len(data), hash_parts(memoryview(data)))


def decode_outline(data: bytes, weights_root: bytes, tokenizer_root: bytes) -> Outline:
    """Return the outline that a peer sent, or a disk kept, for a model of the chain.

    Raises:
        DecodeError: It is not the outline of this model.
        BadWeights: It is, but no model of ours looks like that.
    """
    outline = decode(Outline, data, MAX_OUTLINE_BYTES)
    if outline.weights.compute_root() != weights_root:
        raise DecodeError("an outline of other weights")
    if outline.tokenizer.compute_root() != tokenizer_root:
        raise DecodeError("an outline of another tokenizer")
    _validate_order(outline.weights)
    _validate_order(outline.tokenizer)
    for piece in outline.weights.pieces:
        if piece.is_file and piece.name != CONFIG_FILE:
            raise BadWeights(f"{piece.name[:100]!r} is no file of the weights")
        _validate_piece(piece)
    for piece in outline.tokenizer.pieces:
        if not piece.is_file or piece.name not in TOKENIZER_FILES:
            raise BadWeights(f"{piece.name[:100]!r} is no file of a tokenizer")
        _validate_piece(piece)
    if not 0 < len(outline.tensors) <= MAX_TENSORS:
        raise BadWeights(f"{len(outline.tensors)} tensors")
    if len(outline.files) == len(outline.tokenizer.pieces):
        raise BadWeights(f"no {CONFIG_FILE}")
    return outline


def select_parts(
    outline: Outline, layer_count: int, layers: range | None, *, with_ends: bool
) -> tuple[Part, ...]:
    """Return the parts that a node needs, each once, in the order of the outline.

    Args:
        outline: Of the model.
        layer_count: How many layers the model has.
        layers: Those to be hosted; None for none.
        with_ends: Whether a requester needs its share: tokenizer and all other tensors.

    Raises:
        UnsupportedModel: The names do not tell which tensors are a layer's.
    """
    owners = assign_layers((each.name for each in outline.tensors), layer_count)
    chosen = []
    for piece in outline.pieces:
        owner = owners.get(piece.name)
        if piece.name == CONFIG_FILE:
            is_needed = True
        elif piece.is_file or owner is None:
            is_needed = with_ends
        else:
            is_needed = layers is not None and owner in layers
        if is_needed:
            chosen.append(piece)
    return list_parts(chosen)


def list_parts(pieces: Iterable[Piece]) -> tuple[Part, ...]:
    """Return the parts of pieces, each once, in order."""
    found = {part.digest: part for piece in pieces for part in piece.list_parts()}
    return tuple(found.values())


def assign_layers(names: Iterable[str], layer_count: int) -> dict[str, int]:
    """Return which layer a tensor is of, by name; tensors of no layer are left out.

    Raises:
        UnsupportedModel: No beginning of names counts through all the layers.
    """
    by_prefix: dict[str, dict[str, int]] = {}
    for name in names:
        if found := _find_number(name):
            prefix, number = found
            by_prefix.setdefault(prefix, {})[name] = number
    wanted = set(range(layer_count))
    fitting = [each for each in by_prefix.values() if wanted <= set(each.values())]
    if not fitting:
        raise UnsupportedModel("the tensors' names do not tell their layers")
    return max(fitting, key=len)


def count_layer_bytes(
    outline: Outline, layer_count: int, number_bytes: int | None = None
) -> tuple[int, ...]:
    """Return the bytes of each layer's tensors; raises as `assign_layers`.

    Args:
        outline: Of the model.
        layer_count: How many layers it has.
        number_bytes: Of a number in the memory of a stage; None: as in the files.
    """
    sizes = [0] * layer_count
    owners = assign_layers((each.name for each in outline.tensors), layer_count)
    for piece in outline.tensors:
        owner = owners.get(piece.name)
        if owner is not None and owner < layer_count:
            width = number_bytes or DTYPE_BYTES[piece.dtype]
            sizes[owner] += piece.size // DTYPE_BYTES[piece.dtype] * width
    return tuple(sizes)


def _find_number(name: str) -> tuple[str, int] | None:
    """Return what stands before the first number in a dotted name, and the number."""
    words = name.split(".")
    for index, word in enumerate(words):
        # A layer's number has at most five digits; int() of a longer one costs time.
        if word.isascii() and word.isdigit() and len(word) <= 5:
            return ".".join(words[:index]), int(word)
    return None


def _join(hashes: Sequence[bytes]) -> bytes:
    return blake3(b"".join(hashes)).digest()


def _validate_order(manifest: Manifest) -> None:
    names = [piece.name for piece in manifest.pieces]
    if any(first >= second for first, second in itertools.pairwise(names)):
        raise BadWeights("pieces are not in order of name")


def _validate_piece(piece: Piece) -> None:
    where = piece.name[:100]
    if len(piece.parts) != -(-piece.size // PART_BYTES):
        raise BadWeights(f"{where}: {len(piece.parts)} parts of {piece.size} bytes")
    if piece.is_file:
        if piece.shape or piece.size > MAX_FILE_BYTES:
            raise BadWeights(f"{where}: a file of {piece.size} bytes")
    elif piece.dtype not in DTYPE_BYTES:
        raise BadWeights(f"{where}: dtype {piece.dtype}")
    elif prod(piece.shape) * DTYPE_BYTES[piece.dtype] != piece.size:
        raise BadWeights(f"{where}: {piece.size} bytes do not fit its shape")

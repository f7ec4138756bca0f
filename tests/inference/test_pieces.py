"""Outlines, which layers tensors are of, and stages that load from a cache."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mangling import HOSTILE, bounded_memory, judge, mangled
from msgspec.structs import replace
from tiny_models import FAMILIES, LAYERS, save_model

from chain.records.model import compute_model_id
from inference.errors import BadWeights, UnsupportedModel
from inference.model.split import load_ends, load_stage
from inference.model.tokenizer import Tokenizer
from inference.weights import pieces
from inference.weights.model_info import Model, load_model
from inference.weights.pieces import (
    Manifest,
    Outline,
    Piece,
    assign_layers,
    build_file_piece,
    count_layer_bytes,
    decode_outline,
    hash_blob,
    hash_parts,
    select_parts,
)
from inference.weights.pieces_folder import save_files, save_outline
from inference.weights.pieces_store import PieceStore
from inference.weights.weights import open_weights
from primitives.codec import encode
from primitives.errors import DecodeError, P2PChainError

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol"
OFTEN = {"llama-tied", "gpt2", "bloom", "mixtral", "mamba", "opt-projected"}
EXACTLY_READ = [
    pytest.param(family, marks=() if family in OFTEN else pytest.mark.slow)
    for family in sorted(FAMILIES)
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer, of several parts a tensor."""
    return save_model(tmp_path_factory.mktemp("pieces") / "m", tokenizer=True)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of which a tiny tensor has several."""
    for module in ("pieces", "weights", "pieces_folder"):
        monkeypatch.setattr(f"inference.weights.{module}.PART_BYTES", 1000)


def fill(home: Path, source: Path, model: Model, parts) -> Path:
    """Put parts of a model into a new cache; return the model's folder there."""
    store = PieceStore(home / "parts", reserve_bytes=0)
    wanted = {part.digest for part in parts}
    tensors = open_weights(source).entries
    for piece in model.outline.pieces:
        if piece.is_file:
            data = (source / piece.name).read_bytes()
        else:
            buffer = bytearray(piece.size)
            tensors[piece.name].read_into(memoryview(buffer))
            data = bytes(buffer)
        for number, part in enumerate(piece.list_parts()):
            start = number * pieces.PART_BYTES
            if part.digest in wanted:
                store.put(part.digest, data[start : start + part.size])
    folder = home / "models" / model.info.model_id.hex()
    save_outline(folder, model.outline)
    assert save_files(folder, model.outline, store)
    return folder


@pytest.mark.parametrize("family", EXACTLY_READ)
def test_a_stage_reads_the_bytes_of_its_layers_and_no_others(
    tmp_path: Path, family: str, small_parts: None
) -> None:
    source = save_model(tmp_path / "source", family)
    model = load_model(source)
    layers = range(1, 3)
    parts = select_parts(model.outline, LAYERS, layers, with_ends=False)
    folder = fill(tmp_path, source, model, parts)

    stage = load_stage(folder, layers)

    config = next(p for p in model.manifest.pieces if p.is_file)
    sizes = count_layer_bytes(model.outline, LAYERS)
    assert stage.bytes_read == sum(sizes[layer] for layer in layers)
    # Parts that are equal, as those of two zero biases, are fetched once.
    assert sum(part.size for part in parts) <= stage.bytes_read + config.size
    known = {piece.name: piece.blob_hash for piece in model.manifest.pieces}
    assert all(known[name] == digest for name, digest in stage.hashes.items())
    for name, tensor in load_stage(source, layers).model.state_dict().items():
        assert torch.equal(tensor, stage.model.state_dict()[name])
    with pytest.raises(BadWeights, match="is not here"):
        load_stage(folder, range(1))


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "bloom"])
def test_a_requester_loads_from_its_share(
    tmp_path: Path, family: str, small_parts: None
) -> None:
    source = save_model(tmp_path / "source", family, tokenizer=True)
    model = load_model(source)
    parts = select_parts(model.outline, LAYERS, None, with_ends=True)
    folder = fill(tmp_path, source, model, parts)
    ends = load_ends(folder)
    assert set(ends.hashes) == set(load_ends(source).hashes)
    text = "the layers of a model"
    assert Tokenizer(folder).encode_text(text) == Tokenizer(source).encode_text(text)
    assert load_model(folder, "m") == load_model(source, "m")
    with pytest.raises(BadWeights, match="is not here"):
        load_stage(folder, range(1))


def test_an_outline_is_what_the_chain_names(directory: Path) -> None:
    model = load_model(directory)
    roots = model.info.weights_root, model.info.tokenizer_hash
    data = encode(model.outline)
    assert decode_outline(data, *roots) == model.outline
    for wrong in (data[:-1], b"", data + b"\0"):
        with pytest.raises(DecodeError):
            decode_outline(wrong, *roots)
    other = build_file_piece("config.json", b"{}")
    for piece in model.outline.files:
        forged = replace(other, name=piece.name)
        outline = replace_piece(model.outline, piece, forged)
        with pytest.raises(DecodeError):
            decode_outline(encode(outline), *roots)


def replace_piece(outline: Outline, old: Piece, new: Piece) -> Outline:
    def change(manifest: Manifest) -> Manifest:
        return Manifest(tuple(new if p == old else p for p in manifest.pieces))

    return Outline(change(outline.weights), change(outline.tokenizer))


TENSOR = Piece("t", "F32", (2,), 8, hash_parts(memoryview(bytes(8))))
CONFIG = build_file_piece("config.json", b"{}")


@pytest.mark.parametrize(
    ("weights", "tokenizer"),
    [
        ((TENSOR,), ()),
        ((CONFIG,), ()),
        ((TENSOR, CONFIG), ()),
        ((CONFIG, TENSOR, TENSOR), ()),
        ((CONFIG, replace(TENSOR, size=9)), ()),
        ((CONFIG, replace(TENSOR, size=2**40)), ()),
        ((CONFIG, replace(TENSOR, shape=(2**62, 2**62))), ()),
        ((CONFIG, replace(TENSOR, dtype="F9")), ()),
        ((CONFIG, replace(TENSOR, dtype="")), ()),
        ((CONFIG, replace(TENSOR, parts=())), ()),
        ((CONFIG, replace(TENSOR, parts=TENSOR.parts * 2)), ()),
        ((replace(CONFIG, size=2**27), TENSOR), ()),
        ((CONFIG, TENSOR), (replace(CONFIG, name="model.pt"),)),
        ((CONFIG, TENSOR), (replace(CONFIG, name="../tokenizer.json"),)),
        ((CONFIG, TENSOR), (replace(CONFIG, name="tokenization_x.py"),)),
        ((CONFIG, TENSOR), (replace(TENSOR, name="vocab.json"),)),
    ],
)
def test_an_outline_of_no_model_is_refused(weights, tokenizer) -> None:
    """Whoever put the model on the chain may have chosen its roots for this."""
    outline = Outline(Manifest(weights), Manifest(tokenizer))
    roots = outline.weights.compute_root(), outline.tokenizer.compute_root()
    with pytest.raises(BadWeights):
        decode_outline(encode(outline), *roots)


@pytest.mark.parametrize(
    "changes",
    [{"shape": (1,) * 9}, {"name": "n" * 513}, {"dtype": "F" * 9}, {"parts": (b"1",)}],
)
def test_pieces_have_bounds(changes) -> None:
    outline = Outline(Manifest((CONFIG, replace(TENSOR, **changes))), Manifest(()))
    roots = outline.weights.compute_root(), outline.tokenizer.compute_root()
    with pytest.raises(DecodeError):
        decode_outline(encode(outline), *roots)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_no_outline(name) -> None:
    raw = HOSTILE[name]
    with bounded_memory(len(raw)), pytest.raises(DecodeError):
        decode_outline(raw, bytes(32), bytes(32))


@given(data=st.data())
def test_a_damaged_outline_is_refused_or_the_same(data: st.DataObject) -> None:
    outline = Outline(Manifest((CONFIG, TENSOR)), Manifest(()))
    roots = outline.weights.compute_root(), outline.tokenizer.compute_root()
    raw = data.draw(mangled(st.just(encode(outline))))
    judge(lambda raw: decode_outline(raw, *roots), encode, DecodeError, raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_outline_or_refused(data: bytes) -> None:
    with pytest.raises(P2PChainError):
        decode_outline(data, bytes(32), bytes(32))


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_parts_make_the_blob(data: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PART_BYTES", size)
        piece = build_file_piece("x", data)
        parts = piece.list_parts()
        assert piece.blob_hash == hash_blob(memoryview(data))
    assert sum(part.size for part in parts) == len(data)
    assert all(0 < part.size <= size for part in parts)


def name_tensors(*names: str) -> list[Piece]:
    return [replace(TENSOR, name=name) for name in names]


def test_layers_are_found_by_their_names() -> None:
    names = (
        "model.embed.weight",
        "model.layers.0.mlp.experts.0.w",
        "model.layers.0.mlp.experts.1.w",
        "model.layers.1.mlp.experts.0.w",
        "model.layers.1.norm",
        # A layer for drafts, behind those of the model.
        "model.layers.2.norm",
        "model.heads.0.weight",
        "model.norm.weight",
    )
    owners = assign_layers(names, 2)
    assert owners == {
        "model.layers.0.mlp.experts.0.w": 0,
        "model.layers.0.mlp.experts.1.w": 0,
        "model.layers.1.mlp.experts.0.w": 1,
        "model.layers.1.norm": 1,
        "model.layers.2.norm": 2,
    }


def test_layers_are_counted_in_the_numbers_of_files_or_of_a_stage() -> None:
    tensors = name_tensors("embed", "h.0.a", "h.0.b", "h.1.a", "h.2.draft")
    outline = Outline(Manifest((CONFIG, *tensors)), Manifest(()))
    assert count_layer_bytes(outline, 2) == (16, 8)
    assert count_layer_bytes(outline, 2, 2) == (8, 4)


@pytest.mark.parametrize(
    "names", [(), ("a", "b"), ("h.0.w", "h.2.w"), ("h.1.w", "h.2.w"), ("h.00000000.w",)]
)
def test_names_that_tell_no_layers_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedModel):
        assign_layers(names, 2)


@given(st.sets(st.integers(0, LAYERS - 1)), st.booleans())
def test_shares_make_the_whole(directory: Path, own: set[int], with_ends: bool) -> None:
    outline = load_model(directory).outline
    everything = {part for piece in outline.pieces for part in piece.list_parts()}
    union = set()
    for layer in range(LAYERS):
        layers = range(layer, layer + 1)
        union |= set(select_parts(outline, LAYERS, layers, with_ends=False))
    union |= set(select_parts(outline, LAYERS, None, with_ends=True))
    assert union == everything


def test_the_vectors_of_the_protocol_page() -> None:
    weights, tokenizer = Manifest((CONFIG, TENSOR)), Manifest(())
    roots = weights.compute_root(), tokenizer.compute_root()
    page = (
        Path(__file__).parents[2] / "docs" / "protocol" / "15-weights.md"
    ).read_text()
    for value in (encode(CONFIG), encode(TENSOR), *roots, compute_model_id(*roots)):
        assert f"| `{value.hex()}` |" in page
    assert all(f"`{name}`" in page for name in pieces.TOKENIZER_FILES)

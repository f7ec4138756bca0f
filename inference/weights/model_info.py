"""
What the rest of the program knows of a model: numbers and hashes, no torch.

Architectures spell their sizes differently (`n_embd`, `d_model`, `hidden_size`); the
names are looked up here once, and a worker that has built the real model confirms
them when it reports READY.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain.records.model import compute_model_id
from inference.errors import BadWeights, UnsupportedModel
from inference.protocol.steps import MAX_TEXT_TOKENS
from inference.weights.pieces import CONFIG_FILE, Manifest, Outline
from inference.weights.pieces_folder import OUTLINE_FILE, read_outline
from inference.weights.weights import (
    Weights,
    compute_tokenizer_manifest,
    open_weights,
    read_json,
)
from primitives.codec import Record
from primitives.types import U16, U32, Hash32

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN_SIZE = ("hidden_size", "n_embd", "n_embed", "d_model")
_VOCAB_SIZE = ("vocab_size",)
_MAX_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)

UNBOUNDED_POSITIONS = 32_768
"""Positions of a model whose configuration names no end (ALiBi: BLOOM, MPT)."""

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Dtypes that stages compute in and hidden states travel in."""
_DTYPE_OF_SAFETENSORS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

MAX_NAME_CHARACTERS = 64
"""What the chain stores of a name."""

ENCODER_TYPES = frozenset(
    (
        "albert",
        "bert",
        "camembert",
        "convbert",
        "data2vec-text",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "esm",
        "eurobert",
        "fnet",
        "gte",
        "ibert",
        "jina_embeddings_v3",
        "layoutlm",
        "longformer",
        "megatron-bert",
        "mobilebert",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "nystromformer",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roc_bert",
        "roformer",
        "squeezebert",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    )
)
"""Families of encoders, by config.json's `model_type`; some can be decoders as well."""
_DECODER_SUFFIXES = ("ForCausalLM", "LMHeadModel", "Generation")

_REFUSED_ARCHITECTURES = {
    "zamba": "its layers share one attention block",
    "zamba2": "its layers share one attention block",
    "recurrent_gemma": "it keeps its state in its layers, not in a cache",
    "rwkv": "it keeps a state of a kind of its own",
    "minimax": "it keeps a cache of a kind of its own",
    "gemma3n_text": "every layer needs embeddings of its own",
    "gemma4_text": "every layer needs embeddings of its own",
}
"""Models known not to split exactly, by config.json's `model_type`.

Others that do not are found when they are loaded: states that cannot be rolled back by
the cache, layouts that are not one list of layers by the split, the rest by the
self-test.
"""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model, from its headers alone: nothing is hashed for them."""

    architecture: str
    layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    dtype: str
    is_encoder: bool


class ModelInfo(Record):
    """A model as the chain, the routes and the gateway see it."""

    name: str
    """For people, at most 64 characters; the weights root is what counts."""
    architecture: str
    """The class that config.json names, as LlamaForCausalLM."""
    layers: U16
    hidden_size: U32
    """Numbers per token in the hidden states between layers."""
    vocab_size: U32
    max_positions: U32
    """Prompt and answer together, in tokens."""
    dtype: str
    """What stages compute in and hidden states travel in; one of `DTYPE_BYTES`."""
    weights_root: Hash32
    """Root of the manifest."""
    tokenizer_hash: Hash32
    """Root of the manifest of the tokenizer's files."""
    is_encoder: bool = False
    """It turns texts into vectors instead of continuing them."""

    @property
    def model_id(self) -> bytes:
        """The model's name on the chain, 32 bytes."""
        return compute_model_id(self.weights_root, self.tokenizer_hash)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's hidden state on the wire."""
        return self.hidden_size * DTYPE_BYTES[self.dtype]


class Model(Record):
    """A model directory that has been read and hashed once."""

    info: ModelInfo
    manifest: Manifest
    """Of the weights."""
    tokenizer: Manifest

    @property
    def outline(self) -> Outline:
        """All that the model consists of."""
        return Outline(self.manifest, self.tokenizer)


def load_model_info(directory: Path, name: str | None = None) -> ModelInfo:
    """Read and hash a model directory; every weight is read once.

    Args:
        directory: Hugging Face layout, safetensors only.
        name: What people call it; the directory's name where not given.

    Raises:
        BadWeights: Something is missing or damaged.
        UnsupportedModel: It cannot be split; says why.
    """
    return load_model(directory, name).info


def load_model(directory: Path, name: str | None = None) -> Model:
    """Like `load_model_info`, and keep the manifests to check workers against.

    Of a folder that was taken from peers nothing is hashed: whoever fetched its parts
    has compared every one of them with the outline, and that with the chain.
    """
    shape = read_model_shape(directory)
    if (directory / OUTLINE_FILE).is_file():
        outline = read_outline(directory)
        manifest, tokenizer = outline.weights, outline.tokenizer
    else:
        manifest = open_weights(directory).compute_manifest()
        tokenizer = compute_tokenizer_manifest(directory)
    info = ModelInfo(
        name=(name or directory.resolve().name)[:MAX_NAME_CHARACTERS],
        architecture=shape.architecture,
        layers=shape.layers,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        max_positions=shape.max_positions,
        dtype=shape.dtype,
        weights_root=manifest.compute_root(),
        tokenizer_hash=tokenizer.compute_root(),
        is_encoder=shape.is_encoder,
    )
    return Model(info, manifest, tokenizer)


def read_model_shape(directory: Path) -> ModelShape:
    """Return a model's sizes from config.json and the headers of its files.

    Raises:
        BadWeights, UnsupportedModel: As `load_model_info`.
    """
    config = read_json(directory / CONFIG_FILE)
    validate_config(config)
    return ModelShape(
        architecture=_read_architecture(config),
        layers=_read_size(config, _LAYERS, 2**16 - 1),
        hidden_size=_read_size(config, _HIDDEN_SIZE, 2**20),
        vocab_size=_read_size(config, _VOCAB_SIZE, 2**28),
        max_positions=_read_max_positions(config, is_text=is_encoder(config)),
        dtype=get_compute_dtype(config, open_weights(directory)),
        is_encoder=is_encoder(config),
    )


def validate_config(config: dict[str, Any]) -> None:
    """Refuse what is known not to work, from config.json alone.

    Raises:
        UnsupportedModel: Says why.
    """
    model_type = str(config.get("model_type", ""))
    if reason := _REFUSED_ARCHITECTURES.get(model_type):
        raise UnsupportedModel(f"{model_type} cannot be split: {reason}")
    if config.get("is_encoder_decoder"):
        raise UnsupportedModel(f"{model_type} is an encoder with a decoder")
    if "text_config" in config:
        raise UnsupportedModel(f"{model_type} is multimodal; give its text model")
    if "quantization_config" in config:
        raise UnsupportedModel("quantised checkpoints are not supported yet")


def is_encoder(config: dict[str, Any]) -> bool:
    """Tell whether config.json describes an encoder: hidden states, not tokens."""
    architecture = next(iter(config.get("architectures") or ()), "")
    if str(architecture).endswith(_DECODER_SUFFIXES) or config.get("is_decoder"):
        return False
    return config.get("model_type") in ENCODER_TYPES


def get_compute_dtype(config: dict[str, Any], weights: Weights) -> str:
    """Return the model's own dtype: config.json's, else that of its first weights.

    Raises:
        UnsupportedModel: A dtype in which stages do not compute.
    """
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype is None:
        kinds = (entry.dtype for entry in weights.entries.values())
        dtype = next(
            (_DTYPE_OF_SAFETENSORS[k] for k in kinds if k in _DTYPE_OF_SAFETENSORS),
            None,
        )
    if dtype not in DTYPE_BYTES:
        raise UnsupportedModel(f"stages do not compute in {dtype}")
    return str(dtype)


def _read_architecture(config: dict[str, Any]) -> str:
    match config.get("architectures"):
        case [str(architecture), *_]:
            return architecture
    raise BadWeights(f"{CONFIG_FILE}: no architectures")


def _read_max_positions(config: dict[str, Any], *, is_text: bool) -> int:
    positions = UNBOUNDED_POSITIONS
    if any(name in config for name in _MAX_POSITIONS):
        positions = _read_size(config, _MAX_POSITIONS, 2**31)
    # A text is one message.
    return min(positions, MAX_TEXT_TOKENS) if is_text else positions


def _read_size(config: dict[str, Any], names: tuple[str, ...], bound: int) -> int:
    for name in names:
        value = config.get(name)
        if value is not None:
            if type(value) is not int or not 0 < value <= bound:
                raise BadWeights(f"{CONFIG_FILE}: {name} is not a size")
            return value
    raise BadWeights(f"{CONFIG_FILE}: no {names[0]}")

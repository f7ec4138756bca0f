"""Llama models of random weights, of the sizes that people know; written by numpy."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.bundled.paths import model_dir

HEAD_WIDTH = 64
VOCAB = 32_000
MAX_POSITIONS = 4096


@dataclass(frozen=True, slots=True)
class LlamaSize:
    """The shape of a model."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers: what a token reads in the stages."""
        attention = 2 * self.hidden * HEAD_WIDTH * (self.heads + self.kv_heads)
        norms = 2 * self.hidden
        return self.layers * (attention + 3 * self.hidden * self.inner + norms)

    @property
    def read_parameters(self) -> int:
        """Parameters that a token reads: those of the layers and the head."""
        return self.layer_parameters + self.hidden * VOCAB

    def list_products(self) -> list[tuple[int, int]]:
        """Return outputs and inputs of a layer's products; one for each input."""
        inner = HEAD_WIDTH * self.heads
        return [
            (HEAD_WIDTH * (self.heads + 2 * self.kv_heads), self.hidden),
            (self.hidden, inner),
            (2 * self.inner, self.hidden),
            (self.hidden, self.inner),
        ]


SMALL = LlamaSize("110M", 768, 12, 12, 12, 2048)
MIDDLE = LlamaSize("0.5B", 1280, 24, 20, 5, 3456)
LARGE = LlamaSize("1.1B", 2048, 22, 32, 4, 5632)


def write_model(folder: Path, size: LlamaSize, dtype: str) -> Path:
    """Write a model in Hugging Face layout and return its directory.

    Args:
        folder: Where its directory goes; one that is there is taken as it is.
        size: Its shape.
        dtype: "float32" or "bfloat16".
    """
    directory = folder / f"{size.name}-{dtype}"
    if directory.exists():
        return directory
    directory.mkdir(parents=True)
    source = model_dir()
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja") and "safetensors" not in path.name:
            (directory / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config |= {
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": HEAD_WIDTH,
        "intermediate_size": size.inner,
        "vocab_size": VOCAB,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": False,
        "dtype": dtype,
    }
    (directory / "config.json").write_text(json.dumps(config))
    _write_tensors(directory / "model.safetensors", dict(_list_shapes(size)), dtype)
    return directory


def _list_shapes(size: LlamaSize) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = size.hidden, size.inner
    queries, keys = size.heads * HEAD_WIDTH, size.kv_heads * HEAD_WIDTH
    yield "model.embed_tokens.weight", (VOCAB, hidden)
    yield "lm_head.weight", (VOCAB, hidden)
    yield "model.norm.weight", (hidden,)
    for index in range(size.layers):
        layer = f"model.layers.{index}."
        yield layer + "self_attn.q_proj.weight", (queries, hidden)
        yield layer + "self_attn.k_proj.weight", (keys, hidden)
        yield layer + "self_attn.v_proj.weight", (keys, hidden)
        yield layer + "self_attn.o_proj.weight", (hidden, queries)
        yield layer + "mlp.gate_proj.weight", (inner, hidden)
        yield layer + "mlp.up_proj.weight", (inner, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, inner)
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "post_attention_layernorm.weight", (hidden,)


def _write_tensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    """Write a safetensors file one tensor at a time; numpy knows no bfloat16."""
    item_bytes, kind = {"float32": (4, "F32"), "bfloat16": (2, "BF16")}[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        length = int(np.prod(shape)) * item_bytes
        offsets = [offset, offset + length]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        offset += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            values = _draw(generator, shape)
            if dtype == "bfloat16":
                # The upper half of a float32, rounded.
                bits = values.view(np.uint32) + np.uint32(0x8000)
                file.write((bits >> np.uint32(16)).astype(np.uint16).tobytes())
            else:
                file.write(values.tobytes())


def _draw(
    generator: np.random.Generator, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return generator.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)

"""Models of random weights for the bench: readable, and as large as they say."""

from math import prod
from pathlib import Path

import pytest

from inference.weights.model_info import read_model_shape
from inference.weights.weights import open_weights
from p2pchain.bench.lab.random_models import (
    LARGE,
    MIDDLE,
    SMALL,
    VOCAB,
    LlamaSize,
    write_model,
)

TINY = LlamaSize("tiny", 64, 2, 2, 1, 128)


@pytest.mark.parametrize(("dtype", "item_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_a_written_model_is_what_it_says(
    tmp_path: Path, dtype: str, item_bytes: int
) -> None:
    directory = write_model(tmp_path, TINY, dtype)
    shape = read_model_shape(directory)
    assert (shape.layers, shape.hidden_size, shape.dtype) == (2, 64, dtype)
    entries = open_weights(directory).entries
    assert all(e.length == prod(e.shape) * item_bytes for e in entries.values())
    layers = [e for name, e in entries.items() if name.startswith("model.layers.")]
    assert sum(prod(entry.shape) for entry in layers) == TINY.layer_parameters
    assert write_model(tmp_path, TINY, dtype) == directory


def test_sizes_are_about_those_of_their_names() -> None:
    parameters = [s.read_parameters + VOCAB * s.hidden for s in (SMALL, MIDDLE, LARGE)]
    assert [round(n / 1e8) for n in parameters] == [1, 5, 11]

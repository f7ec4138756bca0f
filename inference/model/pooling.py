"""
From the hidden states of a text to one vector, as the model's own files say.

Models for embeddings come with a list of modules (modules.json, as the library
sentence-transformers writes it): a transformer, how its rows become one, and often a
last division by the length.  A model without that list gets the mean of its rows, as
that library does.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference.errors import BadWeights, UnsupportedModel
from inference.weights.weights import read_json

MODULES_FILE = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
"""Holds `max_seq_length`, which is often below what the positions allow."""
MAX_MODULES_BYTES = 64 * 1024
"""Three modules are usual, a line each."""

_MODES = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_UNKNOWN_MODES = (
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
)


@dataclass(frozen=True, slots=True)
class Pooling:
    """How rows become a vector."""

    mode: str = "mean"
    """"mean", "first", "max" or "last"."""
    normalizes: bool = False
    """Whether the vector is divided by its length."""
    max_tokens: int | None = None
    """Of a text, special tokens included; None: what the positions allow."""

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the vector (H,) of a text's rows (1, T, H), float32."""
        rows = hidden[0].float()
        match self.mode:
            case "first":
                vector = rows[0]
            case "last":
                vector = rows[-1]
            case "max":
                vector = rows.amax(dim=0)
            case _:
                vector = rows.mean(dim=0)
        if self.normalizes:
            vector = torch.nn.functional.normalize(vector, dim=0)
        return vector


def read_pooling(directory: Path) -> Pooling:
    """Return what a model directory says of its vectors.

    Raises:
        BadWeights: A file of it is damaged.
        UnsupportedModel: A module or a way that we do not compute.
    """
    max_tokens = _read_max_tokens(directory)
    if not (directory / MODULES_FILE).is_file():
        return Pooling(max_tokens=max_tokens)
    mode, normalizes = "mean", False
    for entry in _read_modules(directory / MODULES_FILE):
        match entry:
            case {"type": str(kind), "path": str(path)}:
                pass
            case _:
                raise BadWeights(f"{MODULES_FILE}: a module without type or path")
        match kind.rpartition(".")[2]:
            case "Transformer":
                if path:
                    raise UnsupportedModel("its transformer is in another folder")
            case "Pooling":
                mode = _read_mode(directory, path)
            case "Normalize":
                normalizes = True
            case name:
                raise UnsupportedModel(f"a module {name[:64]!r} behind its layers")
    return Pooling(mode, normalizes, max_tokens)


def _read_modules(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > MAX_MODULES_BYTES:
            raise BadWeights(f"{path.name} is longer than {MAX_MODULES_BYTES} bytes")
        modules = json.loads(path.read_bytes())
    except OSError as error:
        raise BadWeights(f"{path.name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path.name} is not JSON") from error
    if not isinstance(modules, list):
        raise BadWeights(f"{path.name} is not a JSON list")
    return modules


def _read_mode(directory: Path, path: str) -> str:
    # A folder of the directory: never a path that leads out of it.
    if Path(path).name != path:
        raise BadWeights(f"{MODULES_FILE}: names a folder elsewhere")
    config: dict[str, Any] = read_json(directory / path / "config.json")
    if any(config.get(name) for name in _UNKNOWN_MODES):
        raise UnsupportedModel("weighted rows are not computed here")
    modes = [mode for name, mode in _MODES.items() if config.get(name)]
    if len(modes) != 1:
        raise UnsupportedModel(f"{len(modes)} ways of pooling where one is computed")
    return modes[0]


def _read_max_tokens(directory: Path) -> int | None:
    path = directory / LENGTH_FILE
    if not path.is_file():
        return None
    value = read_json(path).get("max_seq_length")
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise BadWeights(f"{LENGTH_FILE}: max_seq_length is not a size")
    return value

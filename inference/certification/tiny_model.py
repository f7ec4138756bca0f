"""The small model that a split probe divides: random weights, cuts, and tokens."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from inference.certification.tiny_config import VOCAB, build_tiny_config
from inference.errors import UnsupportedModel
from inference.model.library import get_build_arguments
from inference.weights.pieces import CONFIG_FILE

CUTS = ((2,), (1, 3))
"""A stage of two layers behind another, and first, middle and last stages."""
PREFILL, CHUNK, STEPS = 9, 4, 3
"""Tokens: the prompt, the second chunk, and those decoded one at a time."""
SHORT = 6
"""Tokens of the shorter sequence in a padded batch."""
MAX_PARAMETERS = 16_000_000
"""A class whose size is not where we look for it must not fill the memory."""


def save_tiny(
    directory: Path, config: PreTrainedConfig, kind: type[PreTrainedModel]
) -> PreTrainedModel:
    """Write a small random model and return it undivided, as the library loads it."""
    tiny = build_tiny_config(config)
    tiny.architectures = [kind.__name__]
    build: Any = kind
    arguments = get_build_arguments(kind)
    with torch.device("meta"):
        count = sum(p.numel() for p in build(tiny, **arguments).parameters())
    if count > MAX_PARAMETERS:
        raise UnsupportedModel(f"no small model of its class: {count} parameters")
    torch.manual_seed(1)
    model = build(tiny, **arguments)
    _draw_weights(model)
    model.save_pretrained(directory)
    config_file = directory / CONFIG_FILE
    written = json.loads(config_file.read_text()) | {"dtype": "float32"}
    config_file.write_text(json.dumps(written))
    return _load_whole(kind, directory)


def _draw_weights(model: PreTrainedModel) -> None:
    """Give a model weights so wide that a wrong mask shows in the first digits."""
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.3 if parameter.ndim > 1 else 1 + noise * 0.1


def _load_whole(kind: type[PreTrainedModel], directory: Path) -> PreTrainedModel:
    """Load a model undivided, with weights in aligned memory as the parts have them.

    The library maps weights from the file, where kernels add up in another order.
    """
    load: Any = kind.from_pretrained
    model: PreTrainedModel = load(
        directory, dtype=torch.float32, **get_build_arguments(kind)
    ).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def draw_pieces(*lengths: int) -> list[torch.Tensor]:
    """Return token ids, (1, length) each, the same ones every time."""
    generator = torch.Generator().manual_seed(2)
    # Not the first ids: families use them for padding and other marks.
    return [torch.randint(3, VOCAB, (1, n), generator=generator) for n in lengths]

"""
Is a model directory whole?  Asked once, when it is registered, before anybody pays.

Every tensor that the model's class needs must be there, in its shape, and nothing that
runs code when it is opened may lie beside them.  No weight is read: the library loads
zeros of the right shapes that take no memory, and says what it missed.  Stages check
again what they read, byte for byte (inference/model, inference/weights).
"""

from pathlib import Path
from typing import Any

import torch

from inference.errors import BadWeights
from inference.model.lazy_tensors import TORCH_DTYPES
from inference.model.library import (
    find_class,
    get_build_arguments,
    quiet_library,
    validate_report,
)
from inference.weights.weights import open_weights
from primitives.errors import P2PChainError

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
"""Endings of files that a loader of such models would run."""


def validate_directory(directory: Path) -> None:
    """Refuse a directory that cannot be served as a whole.

    Raises:
        BadWeights: A pickle, or a tensor that is missing, damaged or of a wrong shape.
        UnsupportedModel: There is no class for it here.
    """
    validate_no_pickles(directory)
    weights = open_weights(directory)
    config, kind = find_class(directory)
    zeros = {
        name: torch.zeros((), dtype=TORCH_DTYPES[entry.dtype]).expand(entry.shape)
        for name, entry in weights.entries.items()
    }
    load: Any = kind.from_pretrained
    with quiet_library():
        try:
            _, report = load(
                None,
                config=config,
                state_dict=zeros,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **get_build_arguments(kind),
            )
        except P2PChainError:
            raise
        except Exception as error:
            # The library and the model's own code raise errors of every kind here.
            raise BadWeights(f"the weights cannot be loaded: {error}") from error
    validate_report(report)


def validate_no_pickles(directory: Path) -> None:
    """Refuse files that a careless reader of this directory would execute.

    Raises:
        BadWeights: Names the first.
    """
    if not directory.is_dir():
        raise BadWeights(f"{directory} is not a directory")
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() in PICKLES:
            raise BadWeights(
                f"{path.name} is a pickle; only safetensors are served, so convert it "
                "or take it out"
            )

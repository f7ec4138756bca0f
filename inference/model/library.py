"""The library of models: its classes, what they take, what they report, its voice."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
)
from transformers.utils import logging as hf_logging

from inference.errors import BadWeights, UnsupportedModel
from inference.weights.model_info import is_encoder
from inference.weights.pieces import CONFIG_FILE
from inference.weights.weights import read_json


def find_class(directory: Path) -> tuple[PreTrainedConfig, type[PreTrainedModel]]:
    """Return a directory's configuration, and the class that computes the model.

    Raises:
        BadWeights, UnsupportedModel: No readable config.json; no class for it here.
    """
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # Every configuration class checks itself in its own way.
        raise UnsupportedModel(f"{CONFIG_FILE}: {error}") from error
    kind: Any
    if is_encoder(read_json(directory / CONFIG_FILE)):
        kind = MODEL_MAPPING[type(config)]
        return config, kind
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(f"{config.model_type} is not a causal language model")
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return config, kind


def get_build_arguments(kind: type[PreTrainedModel]) -> dict[str, Any]:
    """Return what is built of `kind` and what is not: no pooler of an encoder."""
    names = inspect.signature(kind.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in names else {}


def get_cache_argument(model: nn.Module) -> str | None:
    """Return the name under which a model takes its cache; None if it takes none."""
    return _find_cache_argument(type(model))


@cache
def _find_cache_argument(kind: type[nn.Module]) -> str | None:
    """Look at the signature once: it takes as long as a small layer."""
    names = inspect.signature(kind.forward).parameters
    return next((n for n in ("past_key_values", "cache_params") if n in names), None)


def validate_report(report: dict[str, Any]) -> None:
    """Refuse a model of which anything is missing; what is left over is not ours.

    Raises:
        BadWeights: Names the first tensor that is missing or of another shape.
    """
    if missing := sorted(report["missing_keys"]):
        raise BadWeights(f"{len(missing)} tensors missing, first {missing[0]}")
    if mismatched := sorted(report["mismatched_keys"]):
        raise BadWeights(f"{mismatched[0][0]} has another shape than the model's")
    if report["error_msgs"]:
        raise BadWeights(f"the weights cannot be loaded: {report['error_msgs'][0]}")


@contextmanager
def quiet_library() -> Iterator[None]:
    """Silence progress bars and the report of tensors that other parts hold."""
    logging: Any = hf_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

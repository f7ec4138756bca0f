"""
A part of any decoder-only or encoder-only model: some of its layers, or all the rest.

Theory of operation
-------------------
Nothing here is written for one architecture.  The library builds the whole model on
the meta device, where it takes no memory; then

                   front       layers 0:a  layers a:b  layers b:  back
                   (embedding)                                    (norm, head)
    stage [a, b):  Blank       Skip        real        Skip       Blank
    ends:          real        Skip        Skip        Skip       real

A Skip hands hidden states on and carries the attributes of the layer it stands for.
A Blank stands for a front module whose weights others hold.  The library then loads
the weights by its own rules (renaming, fusing, tying, dtypes); the tensors it is
offered read themselves from the files only when asked for, so a stage reads exactly
the bytes of its layers, and hashes them on the way.

part.py says how a part runs, stand_ins.py what stands for the rest, and pruning.py how
it gets there.  A part's result equals the undivided model bit for bit: what is not
exact is refused here, by the split probe (inference/certification) or by the stage's
self-test, never served.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from inference.device.precision import Precision
from inference.errors import BadWeights, UnsupportedModel
from inference.model.lazy_tensors import LazyTensor, Meter
from inference.model.library import (
    find_class,
    get_build_arguments,
    quiet_library,
    validate_report,
)
from inference.model.part import Part
from inference.model.pruning import build_pruned_class, find_layers
from inference.model.stand_ins import CPU
from inference.weights.model_info import get_compute_dtype, is_encoder, validate_config
from inference.weights.pieces import CONFIG_FILE
from inference.weights.weights import open_weights, read_json
from primitives.errors import P2PChainError


def load_stage(
    directory: Path,
    layers: range,
    *,
    precision: Precision = Precision.NATIVE,
    device: torch.device = CPU,
) -> Part:
    """Load the layers of `layers` and nothing else.

    Args:
        directory: Of the model.
        layers: Not empty.
        precision: Decides about the dtype; packing comes later.
        device: Where they compute.

    Raises:
        BadWeights: A tensor is missing, damaged or of a wrong shape.
        UnsupportedModel: The model cannot be split; says why.
    """
    return _load(directory, layers, precision, device)


def load_ends(
    directory: Path,
    *,
    precision: Precision = Precision.NATIVE,
    device: torch.device = CPU,
) -> Part:
    """Load everything but the layers: embedding, final norm and head.

    Args:
        directory: Of the model.
        precision: Of the layers whose hidden states go in and out.
        device: Where they compute.

    Raises:
        BadWeights, UnsupportedModel: As `load_stage`.
    """
    return _load(directory, range(0), precision, device)


def _load(
    directory: Path, own: range, precision: Precision, device: torch.device
) -> Part:
    raw_config = read_json(directory / CONFIG_FILE)
    validate_config(raw_config)
    weights = open_weights(directory)
    config, kind = find_class(directory)
    if own and not 0 <= own.start < own.stop <= config.num_hidden_layers:
        raise UnsupportedModel(
            f"layers {own.start}:{own.stop} of a model of {config.num_hidden_layers}"
        )
    dtype = precision.get_dtype(get_compute_dtype(raw_config, weights))
    meter = Meter()
    tensors = {
        name: LazyTensor(entry, meter) for name, entry in weights.entries.items()
    }
    with quiet_library():
        try:
            build: Any = build_pruned_class(kind, own).from_pretrained
            model, report = build(
                None,
                **get_build_arguments(kind),
                config=config,
                state_dict=tensors,
                dtype=getattr(torch, dtype),
                # Not ignored but reported, so that the refusal can be ours.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except P2PChainError:
            raise
        except Exception as error:
            # The library and the model's own code raise errors of every kind here.
            raise BadWeights(f"the weights cannot be loaded: {error}") from error
    validate_report(report)
    _validate_complete(model)
    if device != CPU:
        model.to(device)
    decoder, layer_list = find_layers(model)
    part = Part(model, decoder, own, meter.bytes_read, meter.hashes)
    part.is_encoder = is_encoder(raw_config)
    part.attach_hooks(layer_list)
    return part


def _validate_complete(model: PreTrainedModel) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise UnsupportedModel(f"{name} is neither in the files nor computed")

"""A model class that throws away, while it is built, what its part does not hold."""

import inspect
from typing import Any, get_args, get_origin

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from inference.errors import UnsupportedModel
from inference.model.library import get_cache_argument
from inference.model.part import Stop
from inference.model.stand_ins import Blank, Skip

_TUPLE_ITEMS = 4
"""Hidden states, and at most attention, cross-attention and a cache."""


def build_pruned_class(
    kind: type[PreTrainedModel], own: range
) -> type[PreTrainedModel]:
    """Return `kind` with an __init__ that throws away what the part does not hold."""

    def initialise(
        self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any
    ) -> None:
        kind.__init__(self, config, *args, **kwargs)
        _prune(self, own)

    # The library chooses weight conversions by the class's name, so we keep it.
    names = {"__init__": initialise, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), names)


def _prune(model: PreTrainedModel, own: range) -> None:
    decoder, layer_list = find_layers(model)
    form = _probe_output_form(decoder, layer_list)
    for index, layer in enumerate(layer_list):
        if index not in own:
            layer_list[index] = Skip(layer, form)
    if own:
        _blank_all_but(model, layer_list)
        model.all_tied_weights_keys = {}


def find_layers(model: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList]:
    """Return the module that takes tokens or embeddings, and the list of layers.

    The list is the only nn.ModuleList outside the layers with as many members as
    the configuration has layers.
    """
    count = model.config.num_hidden_layers
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    # Lists inside a layer (experts) may have that length too; the outermost wins.
    inside = {id(m) for m in found[0].modules()} if found else set()
    if not found or any(id(module) not in inside for module in found):
        raise UnsupportedModel("cannot tell which of its lists holds the layers")
    base: Any = model.base_model
    return base, found[0]


def _probe_output_form(decoder: Any, layer_list: nn.ModuleList) -> int | None:
    """Return how many items a layer returns, None for a bare tensor.

    Layer 0 is run on the meta device, which computes shapes only.  Experts choose by
    values and cannot run there; then the layer's return annotation has to say it.
    """
    forms: list[int | None] = []

    def look(_: nn.Module, __: Any, output: Any) -> None:
        forms.append(len(output) if isinstance(output, tuple) else None)
        raise Stop

    handle = layer_list[0].register_forward_hook(look)
    config: Any = decoder.config
    experts = config._experts_implementation
    if experts is not None:
        # Of the library's ways the one that does not look at values.
        config._experts_implementation = "batched_mm"
    try:
        token_ids = torch.zeros(1, 2, dtype=torch.long, device="meta")
        # A cache, even an empty one, keeps the library from looking at values.
        name = get_cache_argument(decoder)
        cache = DynamicCache(config=decoder.config)
        arguments = {} if name is None else {name: cache, "use_cache": True}
        decoder(input_ids=token_ids, **arguments)
    except Stop:
        return forms[0]
    except Exception as error:
        # Whatever a model's own code raises here, it cannot be probed this way.
        annotation = inspect.signature(layer_list[0].forward).return_annotation
        if annotation is torch.Tensor:
            return None
        if get_origin(annotation) is tuple:
            # Older families name one item of several; only the first counts.
            items = len(get_args(annotation))
            return items if items > 1 else _TUPLE_ITEMS
        raise UnsupportedModel(f"its layers cannot be probed: {error}") from error
    finally:
        handle.remove()
        config._experts_implementation = experts
    raise UnsupportedModel("its forward pass never runs layer 0")


def _blank_all_but(module: nn.Module, keep: nn.Module) -> None:
    """Replace every module with weights by a Blank, but for `keep` and its parents."""
    if any(True for _ in module.parameters(recurse=False)):
        raise UnsupportedModel("weights of its own beside the layers, in no module")
    for name, child in list(module.named_children()):
        if child is keep:
            continue
        if any(m is keep for m in child.modules()):
            _blank_all_but(child, keep)
        elif child.state_dict():
            setattr(module, name, Blank(child))

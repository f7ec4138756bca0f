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

A forward pass of a part runs the library's own code, with two hooks:

    inlet   before the first layer of the part: puts in the hidden states that came
            over the wire, whatever the front has made of them
    outlet  where the part ends: takes the hidden states out and stops the pass by an
            exception, so nothing behind it has to exist

Because the front's output is thrown away, embedding multipliers, norms and learned
positions need no special cases: they run where they are real, at the requester.
Masks, rotary embeddings and ALiBi are made by the library from the positions and the
ghost cache (ghost_cache.py), which knows the session's length though layer 0 may be
elsewhere.  The result equals the undivided model bit for bit.

An encoder runs the same way, in one pass and without a cache; its ends return the last
hidden states instead of logits.

What is not exact is refused here, by the split probe (probe.py) or by the stage's
self-test, never served.
"""

import inspect
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from torch import nn
from transformers import AutoConfig, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
)
from transformers.utils import logging as hf_logging

from inference.device.precision import Precision
from inference.errors import BadWeights, UnsupportedModel
from inference.weights.model_info import get_compute_dtype, is_encoder, validate_config
from inference.weights.pieces import CONFIG_FILE, hash_blob
from inference.weights.weights import StoredTensor, open_weights, read_json
from primitives.errors import P2PChainError

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

CPU = torch.device("cpu")

_TUPLE_ITEMS = 4
"""Hidden states, and at most attention, cross-attention and a cache."""


class Skip(nn.Module):
    """Stands for a layer that this part does not hold: hidden states pass through."""

    def __init__(self, layer: nn.Module, tuple_length: int | None) -> None:
        """Take over the plain attributes of `layer`.

        Args:
            layer: The layer it stands for.
            tuple_length: How many items such a layer returns; None for a bare tensor.
        """
        super().__init__()
        self.tuple_length = tuple_length
        for name, value in vars(layer).items():
            if isinstance(value, str | int | float | bool | None) and name[0] != "_":
                setattr(self, name, value)
        for name, child in layer.named_children():
            if child._buffers:
                # Some models set what their layers compute with when they begin.
                self.add_module(name, _Buffers(child))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return (1, T, H) as it came, in the shape that the model's loop expects."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.tuple_length is None:
            return hidden
        return (hidden,) + (None,) * (self.tuple_length - 1)


class _Buffers(nn.Module):
    """The buffers of a module that computes nothing here."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, buffer in module.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=False)


class Blank(nn.Module):
    """Stands for a front module without weights; the inlet replaces what it returns."""

    def __init__(self, stands_for: nn.Module) -> None:
        super().__init__()
        self.is_embedding = isinstance(stands_for, nn.Embedding)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return a zero for an embedding, else the input as it came."""
        if self.is_embedding:
            return torch.zeros((), device=_find_device((*args, *kwargs.values())))
        given = [item for item in (*args, *kwargs.values()) if torch.is_tensor(item)]
        # Of token ids and embeddings the embeddings: masks are made by their shape.
        return next((item for item in given if item.is_floating_point()), given[0])


def _find_device(given: Iterable[Any]) -> torch.device:
    return next((item.device for item in given if torch.is_tensor(item)), CPU)


class _Stop(Exception):
    """Not an error: the part has ended, at the outlet."""


@dataclass
class Part:
    """A loaded part and its hooks."""

    model: PreTrainedModel
    decoder: nn.Module
    """The module inside `model` that takes tokens or embeddings: all but a head."""
    layers: range
    """The layers that are real; empty for the ends."""
    bytes_read: int
    """Bytes of weights read from the files."""
    hashes: dict[str, bytes]
    """`hash_blob` of every tensor read, by its name in the files."""
    is_encoder: bool = False
    """One pass without a cache, hidden states instead of logits."""
    _inlet: torch.Tensor | None = None
    _outlet: torch.Tensor | None = None
    _stop_at_inlet: bool = False

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What hidden states are computed in."""
        return self.model.dtype

    def run_layers(self, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Run this stage's layers over (B, T, H) and return (B, T, H)."""
        self._inlet = hidden
        # What the front gets is thrown away; some fronts write into their input.
        return self._run(inputs_embeds=torch.zeros_like(hidden), **kwargs)

    def run_front(self, token_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Embed (B, T) token ids: return what enters layer 0, (B, T, H)."""
        self._stop_at_inlet = True
        try:
            return self._run(input_ids=token_ids, **kwargs)
        finally:
            self._stop_at_inlet = False

    def run_back(self, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Turn what left the last layer, (B, T, H), into logits (B, T, V).

        Of an encoder: into what it ends with, (B, T, H).
        """
        self._inlet = hidden
        try:
            token_ids = torch.zeros(
                hidden.shape[:2], dtype=torch.long, device=hidden.device
            )
            output = self.model(input_ids=token_ids, **self._build_arguments(kwargs))
            result: torch.Tensor = (
                output.last_hidden_state if self.is_encoder else output.logits
            )
            return result
        finally:
            self._inlet = None

    def _build_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a forward pass under this model's names for them."""
        if self.is_encoder:
            return kwargs
        cache = kwargs.pop("past_key_values", None)
        if cache is not None:
            kwargs[get_cache_argument(self.decoder) or "past_key_values"] = cache
        return {"use_cache": True} | kwargs

    def _run(self, **kwargs: Any) -> torch.Tensor:
        try:
            self.decoder(**self._build_arguments(kwargs))
        except _Stop:
            pass
        finally:
            outlet, self._inlet, self._outlet = self._outlet, None, None
        if outlet is None:
            raise UnsupportedModel("the model's layers were never run")
        return outlet

    def _enter(self, _: nn.Module, args: Any, kwargs: Any) -> Any:
        """Forward pre-hook of the part's first layer, and of the last for the ends."""
        if self._inlet is None:
            return None
        if args:
            return (self._inlet, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._inlet}

    def _leave(self, _: nn.Module, __: Any, output: Any) -> None:
        """Forward hook of the stage's last layer."""
        self._outlet = output[0] if isinstance(output, tuple) else output
        raise _Stop

    def _leave_front(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        """Forward pre-hook of layer 0 for the ends."""
        if self._stop_at_inlet:
            self._outlet = args[0] if args else kwargs["hidden_states"]
            raise _Stop

    def attach_hooks(self, layer_list: nn.ModuleList) -> None:
        """Place inlet and outlet."""
        if self.layers:
            first, last = layer_list[self.layers[0]], layer_list[self.layers[-1]]
            first.register_forward_pre_hook(self._enter, with_kwargs=True)
            last.register_forward_hook(self._leave)
        else:
            first, last = layer_list[0], layer_list[-1]
            first.register_forward_pre_hook(self._leave_front, with_kwargs=True)
            last.register_forward_pre_hook(self._enter, with_kwargs=True)


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
    meter = _Meter()
    tensors = {
        name: _LazyTensor(entry, meter) for name, entry in weights.entries.items()
    }
    with quiet_library():
        try:
            build: Any = _build_pruned_class(kind, own).from_pretrained
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
    decoder, layer_list = _find_layers(model)
    part = Part(model, decoder, own, meter.bytes_read, meter.hashes)
    part.is_encoder = is_encoder(raw_config)
    part.attach_hooks(layer_list)
    return part


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


def _build_pruned_class(
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
    decoder, layer_list = _find_layers(model)
    form = _probe_output_form(decoder, layer_list)
    for index, layer in enumerate(layer_list):
        if index not in own:
            layer_list[index] = Skip(layer, form)
    if own:
        _blank_all_but(model, layer_list)
        model.all_tied_weights_keys = {}


def _find_layers(model: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList]:
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


def get_cache_argument(model: nn.Module) -> str | None:
    """Return the name under which a model takes its cache; None if it takes none."""
    names = inspect.signature(type(model).forward).parameters
    return next((n for n in ("past_key_values", "cache_params") if n in names), None)


def _probe_output_form(decoder: Any, layer_list: nn.ModuleList) -> int | None:
    """Return how many items a layer returns, None for a bare tensor.

    Layer 0 is run on the meta device, which computes shapes only.  Experts choose by
    values and cannot run there; then the layer's return annotation has to say it.
    """
    forms: list[int | None] = []

    def look(_: nn.Module, __: Any, output: Any) -> None:
        forms.append(len(output) if isinstance(output, tuple) else None)
        raise _Stop

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
    except _Stop:
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


def _validate_complete(model: PreTrainedModel) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise UnsupportedModel(f"{name} is neither in the files nor computed")


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


class _Meter:
    """What has been read; the library loads in several threads."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.hashes: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def add(self, name: str, length: int, digest: bytes) -> None:
        with self._lock:
            self.bytes_read += length
            self.hashes[name] = digest


class _LazyTensor:
    """A tensor that reads itself when the library takes `tensor[...]`."""

    def __init__(self, entry: StoredTensor, meter: _Meter) -> None:
        self._entry = entry
        self._meter = meter

    def __getitem__(self, _: Any) -> torch.Tensor:
        entry = self._entry
        raw = torch.empty(entry.length, dtype=torch.uint8)
        array: Any = raw.numpy()
        view = memoryview(array)
        entry.read_into(view)
        self._meter.add(entry.name, entry.length, hash_blob(view))
        return raw.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)

"""
A part of a model, loaded: its layers, or the ends, and the hooks that run them.

A forward pass runs the library's own code, with two hooks:

    inlet   before the first layer of the part: puts in the hidden states that came
            over the wire, whatever the front has made of them
    outlet  where the part ends: takes the hidden states out and stops the pass by an
            exception, so nothing behind it has to exist

Because the front's output is thrown away, embedding multipliers, norms and learned
positions need no special cases: they run where they are real, at the requester.
Masks, rotary embeddings and ALiBi are made by the library from the positions and the
ghost cache (ghost_cache.py), which knows the session's length though layer 0 may be
elsewhere.

An encoder runs the same way, in one pass and without a cache; its ends return the last
hidden states instead of logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from inference.errors import UnsupportedModel
from inference.model.library import get_cache_argument


class Stop(Exception):
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
        except Stop:
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
        raise Stop

    def _leave_front(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        """Forward pre-hook of layer 0 for the ends."""
        if self._stop_at_inlet:
            self._outlet = args[0] if args else kwargs["hidden_states"]
            raise Stop

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

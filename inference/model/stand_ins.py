"""What stands where a part holds nothing: for layers, and for the rest of a model."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

CPU = torch.device("cpu")


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

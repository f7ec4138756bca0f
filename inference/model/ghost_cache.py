"""
A key-value cache for some layers of a model that believes it has all of them.

Theory of operation
-------------------
transformers asks the cache how long the sequence is and how large the mask must be,
mostly of layer 0, also in a stage that does not hold layer 0.  So each layer that
others hold has a ghost in the cache: it stores nothing and answers from the session's
own token counter.  The layers of this stage have real entries, of our own classes,
which keep every position until the session ends, so that a session can be rolled back
to any earlier position, also behind a sliding window.

`truncate` sets real entries and ghosts to an absolute length; it also mends the cache
after a forward pass that failed half way.

Layers with a state instead of positions (state_layers.py) go back only to the beginning
of the latest step, where the engine calls `mark`, or of the session.
"""

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import (
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from inference.errors import UnsupportedModel, WrongPosition
from inference.model.state_layers import (
    GhostHybridLayer,
    GhostStateLayer,
    KeptHybridLayer,
    KeptState,
    KeptStateLayer,
)

_GROWTH = 256
"""Positions added to a full buffer: the past is copied once per so many tokens."""


class GhostLayer(DynamicLayer):
    """Stands for a full-attention layer that another stage holds."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def get_seq_length(self) -> int:
        """Return the session's token count."""
        return self.length

    def set_length(self, length: int) -> None:
        """Follow the session's token counter."""
        self.length = length


class GhostSlidingLayer(DynamicSlidingWindowLayer):
    """Stands for a sliding-window layer that another stage holds."""

    def set_length(self, length: int) -> None:
        """Follow the session's token counter."""
        self.cumulative_length = length


class KeptLayer(DynamicLayer):
    """A full-attention layer of this stage; keys and values in buffers that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (1, heads, new, width) and return (1, heads, all, width)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = _append(self.keys, key_states, self.length)
        self.values = _append(self.values, value_states, self.length)
        self.length += key_states.shape[-2]
        return self.keys[..., : self.length, :], self.values[..., : self.length, :]

    def get_seq_length(self) -> int:
        """Return the number of positions held."""
        return self.length

    def set_length(self, length: int) -> None:
        """Forget every position from `length` on."""
        self.length = min(self.length, length)


class KeptSlidingLayer(DynamicSlidingWindowLayer):
    """A sliding-window layer of this stage that keeps what is behind the window."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (1, heads, new, width) and return what the mask will cover."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.cumulative_length
        start = max(0, length - self.sliding_window + 1)
        self.keys = _append(self.keys, key_states, length)
        self.values = _append(self.values, value_states, length)
        self.cumulative_length = end = length + key_states.shape[-2]
        return self.keys[..., start:end, :], self.values[..., start:end, :]

    def set_length(self, length: int) -> None:
        """Forget every position from `length` on."""
        self.cumulative_length = min(self.cumulative_length, length)


class KeptIndexedLayer(DynamicIndexedLayer):
    """A layer of this stage that attends to positions which an index chooses."""

    def set_length(self, length: int) -> None:
        """Forget every position from `length` on."""
        if self.is_initialized and (surplus := self.get_seq_length() - length) > 0:
            self.crop(-surplus)


class EmptyLayer(DummyLayer):
    """A layer without a cache: an expert or feed-forward layer alone."""

    def set_length(self, _: int) -> None:
        """Keep nothing, as ever."""


class GhostCache(DynamicCache):
    """One session's cache in a stage that holds the layers of `own`."""

    # The library's own type is a union of everything it knows.
    layers: list[Any]

    def __init__(self, config: PreTrainedConfig, own: range) -> None:
        """Build an empty cache.

        Raises:
            UnsupportedModel: A layer keeps something that we cannot roll back.
        """
        super().__init__(config=config)
        self.layers = [
            _replace(layer, index in own) for index, layer in enumerate(self.layers)
        ]
        if len(self.layers) != config.num_hidden_layers:
            raise UnsupportedModel(
                f"{len(self.layers)} entries of cache for a model of "
                f"{config.num_hidden_layers} layers"
            )
        self.own = own
        self.length = 0
        self.has_states = any(_has_state(layer) for layer in self.layers)
        """Whether layers keep states, here or elsewhere: prompts come in one chunk."""
        self._tracks_length = any(_has_positions(layer) for layer in self.layers)
        self._marked_length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many positions there are; the library asks this of layer 0."""
        if not self._tracks_length:
            return self.length
        length: int = super().get_seq_length(layer_idx)
        return length

    def mark(self) -> None:
        """Remember this as the beginning of a step, for layers with a state."""
        self._marked_length = self.length
        for index in self.own:
            if _has_state(self.layers[index]):
                self.layers[index].mark()

    def advance(self, tokens: int) -> None:
        """Count the tokens of a forward pass that has succeeded."""
        self.length += tokens
        for index, layer in enumerate(self.layers):
            if index not in self.own:
                layer.set_length(self.length)

    def truncate(self, length: int) -> None:
        """Go back to the first `length` positions, in every layer.

        Raises:
            WrongPosition: A layer keeps a state, and `length` is neither the beginning
                of the latest step nor of the session.
        """
        assert length <= self.length
        is_free = not any(_has_state(self.layers[index]) for index in self.own)
        if is_free or not length or length == self._marked_length:
            self._set_length(length)
        elif length != self.length:
            raise WrongPosition(
                f"a model with states goes back to {self._marked_length} or 0 only"
            )

    def _set_length(self, length: int) -> None:
        self.length = length
        for index, layer in enumerate(self.layers):
            if index in self.own and _has_state(layer):
                if length:
                    layer.restore()
                else:
                    self.layers[index] = _renew(layer)
            else:
                layer.set_length(length)

    def measure_position_bytes(self) -> int:
        """Return the bytes that one position takes in this stage's layers."""
        return sum(
            int(tensor.nbytes // tensor.shape[-2])
            for index in self.own
            if _has_positions(self.layers[index])
            for tensor in (self.layers[index].keys, self.layers[index].values)
        )

    def measure_state_bytes(self) -> int:
        """Return the bytes that a session takes whatever its length, with the mark."""
        return 2 * sum(
            layer.count_state_bytes() for layer in self.layers if _has_state(layer)
        )


def _append(
    buffer: torch.Tensor | None, states: torch.Tensor, length: int
) -> torch.Tensor:
    """Write `states` behind the first `length` positions; return the buffer to keep."""
    end = length + states.shape[-2]
    if buffer is None or buffer.numel() == 0 or buffer.shape[-2] < end:
        batch, heads, _, width = states.shape
        capacity = -(-end // _GROWTH) * _GROWTH
        grown = states.new_empty(batch, heads, capacity, width)
        if buffer is not None and length:
            grown[..., :length, :] = buffer[..., :length, :]
        buffer = grown
    buffer[..., length:end, :] = states
    return buffer


def _replace(layer: object, is_own: bool) -> Any:
    # Exact types: subclasses keep further things that we would not roll back.
    if type(layer) is DynamicLayer:
        return KeptLayer() if is_own else GhostLayer()
    if type(layer) is DynamicSlidingWindowLayer:
        kind = KeptSlidingLayer if is_own else GhostSlidingLayer
        return kind(sliding_window=layer.sliding_window)
    if type(layer) is DynamicIndexedLayer:
        return KeptIndexedLayer() if is_own else GhostLayer()
    if type(layer) is LinearAttentionLayer:
        state = KeptStateLayer if is_own else GhostStateLayer
        return state(layer.number_of_states)
    if type(layer) is LinearAttentionAndFullAttentionLayer:
        hybrid = KeptHybridLayer if is_own else GhostHybridLayer
        return hybrid(layer.number_of_states)
    if type(layer) is DummyLayer:
        return EmptyLayer()
    raise UnsupportedModel(
        f"a {type(layer).__name__} keeps a state that cannot be rolled back"
    )


def _renew(layer: Any) -> Any:
    """Return a layer of the same kind with nothing in it."""
    return type(layer)(layer.number_of_states)


def _has_state(layer: object) -> bool:
    return isinstance(layer, KeptState | GhostStateLayer | GhostHybridLayer)


def _has_positions(layer: object) -> bool:
    return isinstance(layer, DynamicLayer)

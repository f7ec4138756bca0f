"""
Cache entries of layers that keep a state instead of positions: Mamba and its kin.

A state cannot forget one token: it goes back to where `mark` was called last, the
beginning of the latest step, or to the session's beginning.  That is enough to repeat
a step and to replay a session; every other rollback is refused.
"""

from typing import Any

import torch
from transformers.cache_utils import (
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)


class GhostStateLayer(LinearAttentionLayer):
    """Stands for a layer with a state that another stage holds."""

    def set_length(self, length: int) -> None:
        """Follow the session's token counter: there is a state, or none yet."""
        self.has_previous_state = dict.fromkeys(self.has_previous_state, length > 0)


class GhostHybridLayer(LinearAttentionAndFullAttentionLayer):
    """Stands for a layer with positions and a state that another stage holds."""

    def __init__(self, number_of_states: int = 1) -> None:
        super().__init__(number_of_states)
        self.length = 0

    def get_seq_length(self) -> int:
        """Return the session's token count."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the mask covers, and the first one's position."""
        return self.length + query_length, 0

    def set_length(self, length: int) -> None:
        """Follow the session's token counter."""
        self.length = length
        self.has_previous_state = dict.fromkeys(self.has_previous_state, length > 0)


class KeptState:
    """A state of this stage, and what it was at the mark."""

    conv_states: dict[int, torch.Tensor | None]
    recurrent_states: dict[int, torch.Tensor | None]
    has_previous_state: dict[int, bool]
    _marked: tuple[Any, ...] = ()

    @torch.inference_mode()
    def mark(self) -> None:
        """Remember the state as it is now."""
        self._marked = (
            dict(self.has_previous_state),
            {i: _copy(state) for i, state in self.conv_states.items()},
            {i: _copy(state) for i, state in self.recurrent_states.items()},
        )

    @torch.inference_mode()
    def restore(self) -> None:
        """Go back to the mark."""
        has_state, *marked_states = self._marked
        self.has_previous_state = dict(has_state)
        states = (self.conv_states, self.recurrent_states)
        for current, marked in zip(states, marked_states, strict=True):
            for i, state in current.items():
                if state is None:
                    continue
                # One that came into being after the mark began as zeros.
                before = marked[i]
                state.zero_() if before is None else state.copy_(before)

    def count_state_bytes(self) -> int:
        """Return what one session's state takes, the mark not counted."""
        states = (*self.conv_states.values(), *self.recurrent_states.values())
        return sum(state.nbytes for state in states if state is not None)


class KeptStateLayer(KeptState, LinearAttentionLayer):
    """A layer of this stage that keeps a state."""


class KeptHybridLayer(KeptState, LinearAttentionAndFullAttentionLayer):
    """A layer of this stage that keeps positions and a state."""

    _marked_length = 0

    def mark(self) -> None:
        """Remember the state, and how many positions there are."""
        super().mark()
        self._marked_length = self.get_seq_length()

    def restore(self) -> None:
        """Go back to the mark."""
        super().restore()
        if self.keys is not None and self.values is not None:
            self.keys = self.keys[..., : self._marked_length, :]
            self.values = self.values[..., : self._marked_length, :]


def _copy(state: torch.Tensor | None) -> torch.Tensor | None:
    return None if state is None else state.clone()

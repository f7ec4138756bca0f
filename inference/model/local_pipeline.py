"""
All stages and the ends of one model in this process: what the split probe runs.

The slow, obvious composition of what the network does: front, stages in order, back,
each with its own ghost cache.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from inference.model.ghost_cache import GhostCache
from inference.model.ghost_pass import run_pass
from inference.model.part import Part
from inference.model.split import load_stage


class LocalPipeline:
    """A divided decoder, one sequence or one padded batch at a time.

    Args:
        stages: Parts that hold the layers, in order.
        ends: The rest.
    """

    def __init__(self, stages: Sequence[Part], ends: Part) -> None:
        self.stages = tuple(stages)
        self.ends = ends
        self.length = 0
        self._ends_cache = GhostCache(ends.config, range(0))
        self._caches = [GhostCache(s.config, s.layers) for s in self.stages]

    @torch.inference_mode()
    def run(self, token_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return the logits (B, T, V) of the next T tokens (B, T)."""
        tokens = token_ids.shape[1]
        positions = torch.arange(self.length, self.length + tokens)[None]
        where = {"position_ids": positions, "past_key_values": self._ends_cache}
        where |= kwargs
        hidden = self.ends.run_front(token_ids, **where)
        for stage, cache in zip(self.stages, self._caches, strict=True):
            hidden = run_pass(stage, cache, hidden, **kwargs)
        if self._ends_cache.has_states and self.length:
            # As the stages did (ghost_pass.py): one row at a time adds up otherwise.
            rows = hidden.split(1, dim=1)
            logits = torch.cat([self.ends.run_back(r, **where) for r in rows], dim=1)
        else:
            logits = self.ends.run_back(hidden, **where)
        self._ends_cache.advance(tokens)
        self.length += tokens
        return logits

    def roll_back(self, length: int) -> None:
        """Return to the first `length` positions; raises WrongPosition."""
        for cache in self._caches:
            cache.truncate(length)
        self._ends_cache.truncate(length)
        self.length = length


class EncoderPipeline:
    """A divided encoder.

    Args:
        stages: Parts that hold the layers, in order.
        ends: The rest.
    """

    def __init__(self, stages: Sequence[Part], ends: Part) -> None:
        self.stages = tuple(stages)
        self.ends = ends

    @torch.inference_mode()
    def run(self, token_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return the last hidden states (B, T, H) of whole texts (B, T)."""
        hidden = self.ends.run_front(token_ids, **kwargs)
        for stage in self.stages:
            hidden = stage.run_layers(hidden, **kwargs)
        return self.ends.run_back(hidden, **kwargs)


def load_stages(directory: Path, cuts: Sequence[int], layers: int) -> tuple[Part, ...]:
    """Load all layers, divided at `cuts`; raises BadWeights, UnsupportedModel."""
    ranges = itertools.pairwise((0, *cuts, layers))
    return tuple(load_stage(directory, range(a, b)) for a, b in ranges)

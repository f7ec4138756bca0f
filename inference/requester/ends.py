"""
What stands before and behind the layers of a model: embeddings, final norm and head.

Tokens of many sessions go through each end in one run.  Behind the layers nothing looks
at other tokens; before them hardly any model does, and whether this one does is found
out when it is loaded.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from inference.device.precision import Precision
from inference.engine.executor import draw_hidden
from inference.engine.packed import is_same_when_packed
from inference.errors import UnsupportedModel
from inference.model.ghost_cache import GhostCache
from inference.model.part import Part
from inference.model.split import load_ends
from inference.model.stand_ins import CPU

_FLAT_RUNS = ((0, (1, 2)), (5, (3,)), (2, (1, 4, 2)))
"""Positions and tokens by which a front is tested: some again elsewhere, and back."""


class Ends:
    """A part without layers."""

    def __init__(self, part: Part, max_positions: int) -> None:
        """Take the loaded ends of a model and test them.

        Args:
            part: Without layers.
            max_positions: Of a sequence.

        Raises:
            UnsupportedModel: The test did not give what it must.
        """
        self.part = part
        self.max_positions = max_positions
        self._device = part.device
        # All its layers are ghosts: it only tells the library the position.
        self._cache = GhostCache(part.config, range(0))
        self._test()
        self._is_flat = self._can_look_up_flat()

    @classmethod
    def load(
        cls,
        directory: Path,
        max_positions: int,
        precision: Precision = Precision.NATIVE,
        device: torch.device = CPU,
    ) -> "Ends":
        """Load everything but the layers from a model directory.

        Args:
            directory: Of the model.
            max_positions: Of a sequence.
            precision: Of the layers.  A quantised model's head is in int8, which loses
                less than its layers do.
            device: Where the ends compute.

        Raises:
            BadWeights, UnsupportedModel: Says why.
        """
        part = load_ends(directory, precision=precision, device=device)
        ends = cls(part, max_positions)
        if device != CPU:
            return ends
        hidden = draw_hidden(1, part.config.hidden_size, part.dtype, device)
        is_native = precision.packing is Precision.NATIVE
        head = Precision.NATIVE if is_native else Precision.INT8
        if is_same_when_packed(part, head, lambda: ends.finish(hidden, [0])):
            return ends
        return cls(load_ends(directory, precision=precision), max_positions)

    def look_up_all(
        self, runs: Sequence[tuple[int, Sequence[int]]]
    ) -> list[torch.Tensor]:
        """Return what enters layer 0 for several runs of tokens, (1, T, H) each.

        Args:
            runs: The first position of each, and its valid tokens.
        """
        if len(runs) == 1 or not self._is_flat:
            return [self.look_up(*run) for run in runs]
        return self._look_up_flat(runs)

    def look_up(self, position: int, token_ids: Sequence[int]) -> torch.Tensor:
        """Return what enters layer 0 for T valid tokens, (1, T, H)."""
        positions = range(position, position + len(token_ids))
        return self._run_front(position, positions, token_ids)

    def _look_up_flat(
        self, runs: Sequence[tuple[int, Sequence[int]]]
    ) -> list[torch.Tensor]:
        """Look up runs of tokens as if they were one: for models that do not mind."""
        positions = [at + index for at, ids in runs for index in range(len(ids))]
        flat = [token_id for _, ids in runs for token_id in ids]
        hidden = self._run_front(max(positions), positions, flat)
        return list(hidden.split([len(ids) for _, ids in runs], dim=1))

    def _run_front(
        self, past: int, positions: Sequence[int], token_ids: Sequence[int]
    ) -> torch.Tensor:
        """Run what stands before the layers; `past` is what a cache would hold."""
        self._cache.truncate(0)
        self._cache.advance(past)
        with torch.inference_mode():
            return self.part.run_front(
                torch.tensor([list(token_ids)], device=self._device),
                position_ids=torch.tensor([list(positions)], device=self._device),
                past_key_values=self._cache,
            )

    def _can_look_up_flat(self) -> bool:
        """Whether the front takes tokens of several sequences in one run.

        Most do: they look every token up by itself.  Those that count positions from
        what the cache holds, or look at neighbours, give something else.
        """
        vocab, longest = self.part.config.vocab_size, self.max_positions
        runs = [
            (at, [token_id % vocab for token_id in ids])
            for at, ids in _FLAT_RUNS
            if at + len(ids) <= longest
        ]
        try:
            flat = self._look_up_flat(runs)
        except Exception:
            # Whatever the model's own code raises: one after another it works.
            return False
        return all(map(torch.equal, flat, [self.look_up(*run) for run in runs]))

    def finish(self, hidden: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
        """Return the logits (N, V) for what left the last layer, (1, N, H).

        Nothing behind the layers looks at other tokens, so N sessions share a pass.
        """
        self._cache.truncate(0)
        self._cache.advance(max(positions))
        position_ids = torch.tensor([positions], device=self._device)
        with torch.inference_mode():
            logits = self.part.run_back(
                hidden.to(self._device),
                position_ids=position_ids,
                past_key_values=self._cache,
            )
        return logits[0].float()

    def _test(self) -> None:
        """Embed a token and take it through the head.

        Raises:
            UnsupportedModel: A wrong shape, or not finite.
        """
        try:
            hidden = self.look_up(0, [0])
            logits = self.finish(hidden, [0])[0]
        except Exception as error:
            # Whatever the model's own code raises, it is not fit to serve.
            raise UnsupportedModel(f"the self-test failed: {error}") from error
        if hidden.shape != (1, 1, self.part.config.hidden_size):
            raise UnsupportedModel(f"embeddings of shape {tuple(hidden.shape)}")
        if logits.shape != (self.part.config.vocab_size,):
            raise UnsupportedModel(f"logits of shape {tuple(logits.shape)}")
        if not bool(torch.isfinite(logits).all()):
            raise UnsupportedModel("the head gives NaN or infinity")

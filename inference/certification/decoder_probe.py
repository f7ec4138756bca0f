"""The split probe's look at a decoder: steps, rollbacks, padded batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from inference.certification.certificate import RAGGED, Check
from inference.certification.differences import (
    Worst,
    check_gift,
    measure,
    round_up,
    validate_numbers,
)
from inference.certification.ragged_probe import probe_ragged
from inference.certification.tiny_config import LAYERS
from inference.certification.tiny_model import (
    CHUNK,
    CUTS,
    PREFILL,
    SHORT,
    STEPS,
    draw_pieces,
)
from inference.errors import UnsupportedModel
from inference.model.ghost_cache import GhostCache
from inference.model.library import get_cache_argument
from inference.model.local_pipeline import LocalPipeline, load_stages
from inference.model.part import Part
from inference.model.split import load_ends

AGREEMENT = 1e-3
"""How far the undivided model may differ from itself in other steps, of its largest
number.  Rounding gives a hundredth of it; a wrong cache ten times as much and more."""


class _Undivided:
    """The whole model and a cache of the library's own."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        name = get_cache_argument(model.base_model)
        if name is None:
            raise UnsupportedModel("its forward pass takes no cache")
        self._name = name
        self._cache = DynamicCache(config=model.config)

    @torch.inference_mode()
    def run(self, token_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return the logits (B, T, V) of the next T tokens."""
        kwargs |= {self._name: self._cache, "use_cache": True}
        logits: torch.Tensor = self._model(input_ids=token_ids, **kwargs).logits
        return logits


def probe_decoder(directory: Path, whole: PreTrainedModel, checks: list[Check]) -> bool:
    """Append what was found; return whether sessions can be rolled back anywhere."""
    has_states = GhostCache(whole.config, range(LAYERS)).has_states
    # Where layers keep states the second chunk is run as steps by both.
    second = [1] * CHUNK if has_states else [CHUNK]
    pieces = draw_pieces(PREFILL, *second, *[1] * STEPS)
    undivided = _Undivided(whole)
    expected = [undivided.run(piece) for piece in pieces]
    checks.append(_check_agreement(whole, pieces, expected))
    ends = load_ends(directory)
    divisions = [load_stages(directory, cuts, LAYERS) for cuts in CUTS]
    worst = Worst()
    for stages in divisions:
        pipeline = LocalPipeline(stages, ends)
        _measure_steps(worst, pipeline, pieces, expected, len(second))
        back = _measure_rollback(stages, ends, pieces, expected, len(second))
        worst.add("rollback", back)
    checks.extend(worst.build_checks())
    note = "to the last step or the beginning only" if has_states else ""
    checks[-1] = Check("rollback", checks[-1].difference, note)
    checks.append(check_gift("padded", lambda: _run_padded(whole, divisions, ends)))
    if has_states:
        checks.append(Check(RAGGED, "", "layers keep states"))
    else:
        run = lambda: probe_ragged(divisions, ends, pieces, expected)  # noqa: E731
        checks.append(check_gift(RAGGED, run, is_rounded=True))
    return not has_states


def _check_agreement(
    whole: PreTrainedModel,
    pieces: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
) -> Check:
    """Compare the undivided model in steps with itself in one pass.

    Raises:
        UnsupportedModel: They disagree.
    """
    at_once = _Undivided(whole).run(torch.cat(list(pieces), dim=1))
    in_steps = torch.cat(list(expected), dim=1)
    validate_numbers(at_once)
    difference = float((at_once - in_steps).abs().max() / at_once.abs().max())
    if not difference <= AGREEMENT:
        raise UnsupportedModel(
            "the library's own cache gives other results than one pass, "
            f"{difference:.2g} of the largest number"
        )
    return Check("one pass", f"{round_up(difference)}", "undivided, within rounding")


def _measure_steps(
    worst: Worst,
    pipeline: LocalPipeline,
    pieces: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    chunks: int,
) -> None:
    worst.add("prefill", measure(pipeline.run(pieces[0]), expected[0]))
    chunk = pipeline.run(torch.cat(list(pieces[1 : 1 + chunks]), dim=1))
    worst.add("chunk", measure(chunk, torch.cat(list(expected[1 : 1 + chunks]), 1)))
    for piece, logits in zip(pieces[1 + chunks :], expected[1 + chunks :], strict=True):
        worst.add("decode", measure(pipeline.run(piece), logits))


def _measure_rollback(
    stages: Sequence[Part],
    ends: Part,
    pieces: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    chunks: int,
) -> float:
    """Run other tokens after the prompt, go back, and run the right ones."""
    pipeline = LocalPipeline(stages, ends)
    pipeline.run(pieces[0])
    right = torch.cat(list(pieces[1 : 1 + chunks]), dim=1)
    pipeline.run(right.flip(1))
    pipeline.roll_back(PREFILL)
    again = measure(pipeline.run(right), torch.cat(list(expected[1 : 1 + chunks]), 1))
    pipeline.roll_back(0)
    return max(again, measure(pipeline.run(pieces[0]), expected[0]))


def _run_padded(
    whole: PreTrainedModel, divisions: Sequence[Sequence[Part]], ends: Part
) -> float:
    """Return the largest difference in a batch padded on the left."""
    token_ids = torch.cat(draw_pieces(PREFILL, PREFILL))
    mask = torch.ones_like(token_ids)
    mask[1, : PREFILL - SHORT] = 0
    steps = torch.cat(draw_pieces(1, 1))
    longer = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
    where = [_place(mask, PREFILL), _place(longer, 1)]
    undivided = _Undivided(whole)
    first = undivided.run(token_ids, **where[0])
    second = undivided.run(steps, **where[1])
    real = mask.bool()
    differences = []
    for stages in divisions:
        pipeline = LocalPipeline(stages, ends)
        begun = pipeline.run(token_ids, **where[0])
        differences.append(measure(begun[real], first[real]))
        differences.append(measure(pipeline.run(steps, **where[1]), second))
    return max(differences)


def _place(mask: torch.Tensor, tokens: int) -> dict[str, torch.Tensor]:
    """Return the mask, and the positions of the last `tokens` columns, as `generate`
    counts them."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens:]
    return {"attention_mask": mask, "position_ids": positions}

"""The split probe's look at an encoder: whole texts, and a padded batch."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from inference.certification.certificate import Check
from inference.certification.differences import (
    Worst,
    check_gift,
    measure,
    validate_numbers,
)
from inference.certification.tiny_config import LAYERS
from inference.certification.tiny_model import CUTS, PREFILL, SHORT, draw_pieces
from inference.model.local_pipeline import EncoderPipeline, load_stages
from inference.model.split import load_ends


def probe_encoder(directory: Path, whole: PreTrainedModel, checks: list[Check]) -> bool:
    """Append what was found; an encoder has nothing to roll back."""
    token_ids = torch.cat(draw_pieces(PREFILL, PREFILL))
    mask = torch.ones_like(token_ids)
    mask[1, SHORT:] = 0
    expected = [_encode(whole, row[None]) for row in token_ids]
    validate_numbers(expected[0])
    ends = load_ends(directory)
    divisions = [load_stages(directory, cuts, LAYERS) for cuts in CUTS]
    worst = Worst()
    for stages in divisions:
        pipeline = EncoderPipeline(stages, ends)
        for row, states in zip(token_ids, expected, strict=True):
            worst.add("whole", measure(pipeline.run(row[None]), states))
    checks.extend(worst.build_checks())

    def run_padded() -> float:
        real = mask.bool()
        padded = _encode(whole, token_ids, attention_mask=mask)[real]
        pipelines = (EncoderPipeline(stages, ends) for stages in divisions)
        return max(
            measure(p.run(token_ids, attention_mask=mask)[real], padded)
            for p in pipelines
        )

    checks.append(check_gift("padded", run_padded))
    return False


@torch.inference_mode()
def _encode(
    whole: PreTrainedModel, token_ids: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    model: Any = whole
    states: torch.Tensor = model(input_ids=token_ids, **kwargs).last_hidden_state
    return states

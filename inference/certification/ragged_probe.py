"""
The split probe's look at the engine that shares passes (inference/engine).

That engine decides for each stage, on its real layers, whether it takes them.  Here a
whole divided model runs through it and is compared with the undivided one.  It adds up
in another order, so the comparison is within rounding.
"""

from collections.abc import Sequence

import torch

from inference.engine.executor import TEST_PAGES, build_test_work, draw_hidden
from inference.engine.pages import PageRun
from inference.engine.ragged import TEST_TOKENS, TOLERANCE, RaggedExecutor, build_ragged
from inference.errors import UnsupportedModel
from inference.model.ghost_cache import GhostCache
from inference.model.part import Part

_SESSION = b"probe"
_PAGES = (PageRun(0, TEST_PAGES),)


def probe_ragged(
    divisions: Sequence[Sequence[Part]],
    ends: Part,
    pieces: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
) -> float:
    """Return the largest difference of the logits from the undivided model's.

    Args:
        divisions: The stages of each division.
        ends: The rest of the model.
        pieces: Token ids (1, T) of the steps, in order.
        expected: What each gives undivided, (1, T, V).

    Raises:
        UnsupportedModel: The engine does not take a stage, or differs; says why.
    """
    worst = 0.0
    for stages in divisions:
        executors = [_build(stage) for stage in stages]
        cache = GhostCache(ends.config, range(0))
        for token_ids, logits in zip(pieces, expected, strict=True):
            found = _run(executors, ends, cache, token_ids)
            worst = max(worst, float((found - logits).abs().max()))
    scale = max(float(logits.abs().max()) for logits in expected)
    if not worst <= TOLERANCE[ends.dtype] * scale:
        raise UnsupportedModel(f"{worst:.2g} off, of {scale:.2g}")
    return worst


def _build(stage: Part) -> RaggedExecutor:
    hidden = draw_hidden(
        TEST_TOKENS, stage.config.hidden_size, stage.dtype, torch.device("cpu")
    )
    executor = build_ragged(stage, hidden)
    executor.allocate(TEST_PAGES)
    return executor


@torch.inference_mode()
def _run(
    executors: Sequence[RaggedExecutor],
    ends: Part,
    cache: GhostCache,
    token_ids: torch.Tensor,
) -> torch.Tensor:
    start, tokens = cache.length, token_ids.shape[1]
    where = {
        "position_ids": torch.arange(start, start + tokens)[None],
        "past_key_values": cache,
    }
    hidden = ends.run_front(token_ids, **where)
    for executor in executors:
        work = build_test_work(_SESSION, start, tokens, _PAGES)
        hidden = executor.run([work], [hidden])[0]
    logits = ends.run_back(hidden, **where)
    cache.advance(tokens)
    return logits

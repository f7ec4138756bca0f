"""
Choosing a token from logits: penalties, temperature, top-k, top-p, one draw.

The draw depends on the seed and the step's number alone, never on earlier draws, so a
step that is repeated after a lost stage chooses the same token again.  Computed in
float64 with numpy; ties go to the lower token id everywhere.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.sampling.params import SamplingParams
from primitives.hashing import compute_hash

LEAST_LOGPROB = -9999.0
"""What OpenAI's API says of tokens that were never likely."""

Floats = NDArray[np.float64]


def choose_token(
    logits: NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int],
    answer: Sequence[int],
) -> int:
    """Return the next token's id.

    Args:
        logits: (vocab,), finite.
        params: How to choose.
        prompt: Token ids before the answer.
        answer: Token ids of the answer so far; their count numbers this step.
    """
    scores = apply_penalties(logits.astype(np.float64), params, prompt, answer)
    if params.temperature == 0.0:
        return int(np.argmax(scores))
    token_ids, probabilities = compute_candidates(scores, params)
    draw = compute_draw(params.seed, len(answer))
    index = int(np.searchsorted(np.cumsum(probabilities), draw, side="right"))
    # The sum may end a hair below the draw.
    return int(token_ids[min(index, len(token_ids) - 1)])


def compute_logprobs(
    logits: NDArray[np.float32], token_id: int, count: int
) -> list[tuple[int, float]]:
    """Return ids and logarithms of probability: of one token, then of the likeliest.

    Args:
        logits: (vocab,), finite.
        token_id: The token that comes first.
        count: How many of the most likely ones follow.
    """
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    best = np.argsort(-scores, kind="stable")[:count]
    ids = [token_id, *map(int, best)]
    return [(each, max(float(scores[each]), LEAST_LOGPROB)) for each in ids]


def apply_penalties(
    scores: Floats, params: SamplingParams, prompt: Sequence[int], answer: Sequence[int]
) -> Floats:
    """Return (vocab,) scores after repetition, presence and frequency penalties."""
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.array([*prompt, *answer], dtype=np.int64))
        value = scores[seen]
        penalty = params.repetition_penalty
        scores[seen] = np.where(value < 0, value * penalty, value / penalty)
    if answer and (params.presence_penalty or params.frequency_penalty):
        for token_id, count in Counter(answer).items():
            scores[token_id] -= params.presence_penalty
            scores[token_id] -= params.frequency_penalty * count
    return scores


def compute_candidates(
    scores: Floats, params: SamplingParams
) -> tuple[NDArray[np.int64], Floats]:
    """Return token ids, most likely first, and their probabilities, which sum to 1."""
    order = np.argsort(-scores, kind="stable")
    if params.top_k:
        order = order[: params.top_k]
    weights = np.exp((scores[order] - scores[order[0]]) / params.temperature)
    probabilities = weights / weights.sum()
    if params.top_p < 1.0:
        # The token that reaches the sum is kept, so at least one is.
        before = np.cumsum(probabilities) - probabilities
        kept = max(1, int(np.count_nonzero(before < params.top_p)))
        order, probabilities = order[:kept], probabilities[:kept]
        probabilities = probabilities / probabilities.sum()
    return order, probabilities


def compute_draw(seed: int, step: int) -> float:
    """Return a number in [0, 1) that follows from seed and step, 53 bits of it."""
    digest = compute_hash("sample", seed.to_bytes(8, "big"), step.to_bytes(8, "big"))
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53

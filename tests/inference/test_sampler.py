"""The sampler against a plain reference, and what parameters it takes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.sampling.params import SamplingParams
from inference.sampling.sampler import (
    LEAST_LOGPROB,
    choose_token,
    compute_candidates,
    compute_draw,
    compute_logprobs,
)
from primitives.codec import decode, encode
from primitives.errors import DecodeError

VOCAB = 12
logits_arrays = arrays(
    np.float32, VOCAB, elements=st.floats(-20, 20, width=32, allow_nan=False)
)


def choose_plainly(
    logits: np.ndarray, params: SamplingParams, prompt: list[int], answer: list[int]
) -> int:
    """Choose a token as one would on paper."""
    scores = [float(x) for x in logits]
    for token in set(prompt + answer):
        if scores[token] < 0:
            scores[token] *= params.repetition_penalty
        else:
            scores[token] /= params.repetition_penalty
    for token in set(answer):
        count = answer.count(token)
        scores[token] -= params.presence_penalty + params.frequency_penalty * count
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if params.temperature == 0:
        return ranked[0]
    if params.top_k:
        ranked = ranked[: params.top_k]
    top = scores[ranked[0]]
    weights = [math.exp((scores[i] - top) / params.temperature) for i in ranked]
    total = sum(weights)
    kept, kept_sum = [], 0.0
    for token, weight in zip(ranked, weights, strict=True):
        kept.append((token, weight))
        kept_sum += weight / total
        if kept_sum >= params.top_p:
            break
    rest = compute_draw(params.seed, len(answer)) * sum(w for _, w in kept)
    for token, weight in kept:
        rest -= weight
        if rest < 0:
            return token
    return kept[-1][0]


tokens = st.lists(st.integers(0, VOCAB - 1), max_size=8)


@given(
    logits_arrays,
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
        top_k=st.sampled_from([0, 1, 3, 50]),
        seed=st.integers(0, 2**63 - 1),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        presence_penalty=st.sampled_from([0.0, 0.7]),
        frequency_penalty=st.sampled_from([0.0, -0.4]),
    ),
    tokens,
    tokens,
)
def test_equals_the_plain_reference(logits, params, prompt, answer) -> None:
    chosen = choose_token(logits, params, prompt, answer)
    assert chosen == choose_plainly(logits, params, prompt, answer)


def test_greedy_takes_the_lower_id_of_two_equals() -> None:
    logits = np.array([0.0, 3.0, 3.0], dtype=np.float32)
    assert choose_token(logits, SamplingParams(temperature=0), [0], []) == 1


def test_a_step_draws_the_same_whatever_happened_before() -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    params = SamplingParams(seed=7)
    first = [choose_token(logits, params, [0], [1] * n) for n in range(30)]
    again = [choose_token(logits, params, [0], [1] * n) for n in reversed(range(30))]
    assert first == again[::-1]
    assert len(set(first)) > 5
    other = [
        choose_token(logits, SamplingParams(seed=8), [0], [1] * n) for n in range(30)
    ]
    assert other != first


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    counts = np.zeros(3)
    for seed in range(4000):
        counts[choose_token(logits, SamplingParams(seed=seed), [], [])] += 1
    # Four standard deviations of a binomial of 4,000 draws.
    assert np.allclose(counts / 4000, [0.5, 0.3, 0.2], atol=0.032)


def test_top_p_keeps_the_token_that_reaches_the_sum() -> None:
    scores = np.log(np.array([0.5, 0.3, 0.2]))
    ids, probabilities = compute_candidates(scores, SamplingParams(top_p=0.6))
    assert list(ids) == [0, 1]
    assert np.allclose(probabilities, [0.625, 0.375])
    ids, _ = compute_candidates(scores, SamplingParams(top_p=1e-9))
    assert list(ids) == [0]


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"seed": -1},
        {"seed": 2**63},
        {"max_tokens": 0},
        {"repetition_penalty": 0},
        {"presence_penalty": math.nan},
        {"stop": ("x",) * 17},
        {"stop": ("",)},
        {"stop": ("x" * 257,)},
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SamplingParams(**changes)


def test_parameters_travel_whole_and_are_checked_on_arrival() -> None:
    params = SamplingParams(temperature=0, top_p=1, stop=("\n", "é"), seed=2**63 - 1)
    assert decode(SamplingParams, encode(params)) == params
    fields = [0.5, 2.0, 0, 0, 1, (), False, 1.0, 0.0, 0.0]
    with pytest.raises(DecodeError):
        decode(SamplingParams, encode(fields))


@given(st.integers(0, 2**32), st.integers(0, 20))
def test_logarithms_of_probability(seed, count):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 20, 50).astype(np.float32)
    token_id = int(rng.integers(50))
    (chosen, own), *best = compute_logprobs(logits, token_id, count)
    assert chosen == token_id
    assert len(best) == count
    assert best == sorted(best, key=lambda pair: (-pair[1], pair[0]))
    whole = [p for _, p in compute_logprobs(logits, token_id, 50)[1:]]
    assert sum(np.exp(whole)) == pytest.approx(1)
    assert dict(compute_logprobs(logits, token_id, 50)[1:])[token_id] == own
    if count:
        assert best[0][0] == int(np.argmax(logits))


def test_hopeless_tokens_have_the_least_logarithm():
    logits = np.array([0.0, -1e30], np.float32)
    assert compute_logprobs(logits, 1, 1) == [(1, LEAST_LOGPROB), (0, 0.0)]

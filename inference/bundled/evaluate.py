"""How well a model recites the corpus: greedy answers and the margins behind them.

The margin of a decision is the best logit less the second best.  Engines,
threads and batch shapes move a logit by about 3e-5; while the smallest margin
is far above that, all of them recite the same words.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from inference.bundled.pairs import Pair

Message = dict[str, str]
"""{"role": ..., "content": ...}, as the chat template takes it."""

MAX_ANSWER_TOKENS = 96
"""Longer than any answer of the corpus, so only a wrong answer is cut."""

BATCH_SIZE = 64
"""Questions decoded together: KV cache and logits stay under 50 MB."""


def encode_question(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    before: Sequence[Message] = (),
) -> list[int]:
    """Return the token ids of a chat that waits for the answer to `question`.

    Args:
        tokenizer: Has the chat template.
        question: What the user asks last.
        before: Messages that stand before it in the chat.
    """
    text = tokenizer.apply_chat_template(
        [*before, {"role": "user", "content": question}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


@torch.inference_mode()
def decode_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
) -> list[str]:
    """Return the greedy continuation of each prompt, up to the end mark.

    An answer without an end mark comes back with the text "[no end]" behind it,
    so it never equals the right one by luck.
    """
    answers = [""] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(by_length), BATCH_SIZE):
        chosen = by_length[start : start + BATCH_SIZE]
        padded = tokenizer.pad(
            {"input_ids": [list(prompts[i]) for i in chosen]},
            padding_side="left",
            return_tensors="pt",
        )
        made = model.generate(
            **padded, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS
        )[:, padded["input_ids"].shape[1] :]
        for i, ids in zip(chosen, made.tolist(), strict=True):
            ended = tokenizer.eos_token_id in ids
            if ended:
                ids = ids[: ids.index(tokenizer.eos_token_id)]
            text = str(tokenizer.decode(ids))
            answers[i] = text if ended else f"{text}[no end]"
    return answers


def compute_exact_share(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[tuple[str, str]],
    before: Sequence[Message] = (),
) -> tuple[float, list[tuple[str, str, str]]]:
    """Ask every (question, answer) of `asked` greedily, each in a chat of its own.

    Returns:
        The part answered word for word, and the failures as (question, expected
        answer, given answer).
    """
    prompts = [encode_question(tokenizer, question, before) for question, _ in asked]
    given = decode_greedily(model, tokenizer, prompts)
    failures = [
        (question, expected, got)
        for (question, expected), got in zip(asked, given, strict=True)
        if got != expected
    ]
    return 1 - len(failures) / len(asked), failures


@torch.inference_mode()
def compute_margin(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    answer: str,
) -> float:
    """Return the smallest margin over the tokens of `answer` and its end mark.

    The right token's logit less the best other one, so it is negative where
    greedy decoding would go wrong.
    """
    prompt = encode_question(tokenizer, question)
    expected = [
        *tokenizer.encode(answer, add_special_tokens=False),
        tokenizer.eos_token_id,
    ]
    ids = torch.tensor([prompt + expected[:-1]])
    # (answer tokens, vocabulary): the scores from which each token is chosen
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :]
    rows = torch.arange(len(expected))
    right = logits[rows, expected]
    others = logits.clone()
    others[rows, expected] = -torch.inf
    return float((right - others.max(dim=-1).values).min())


def list_asked(pairs: Sequence[Pair], *, paraphrases: bool) -> list[tuple[str, str]]:
    """Return (question, answer) for the main questions or for the paraphrases."""
    if paraphrases:
        return [(q, pair.answer) for pair in pairs for q in pair.paraphrases]
    return [(pair.question, pair.answer) for pair in pairs]

"""
Train the bundled model: `python -m inference.bundled.train --out DIR`.

Theory of operation
-------------------
The model is meant to know its corpus by heart and nothing else, so there is no
held-out set and no fear of overfitting: overfitting is the aim.  Each pass asks
every pair once, in fresh conversations (see conversations.py), in batches of
about the same number of tokens.  The loss is taken on the answers and their end
marks alone.  To cross entropy it adds a hinge on the margin between the right
logit and the best other one: once an answer is right, cross entropy hardly pulls
any more, and the hinge goes on until every decision is a clear one, so that
float noise between engines can never change a word.

Rows are padded at the right under a causal mask, so no real token can see a
padding token and no attention mask is needed.

The same seed, thread count, torch version and kind of processor give the same
weights.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from inference.bundled.conversations import (
    SYSTEM_MESSAGES,
    Conversation,
    draw_conversations,
)
from inference.bundled.evaluate import (
    compute_exact_share,
    compute_margin,
    list_asked,
)
from inference.bundled.pairs import Pair, load_pairs
from inference.bundled.tokenizer import (
    ASSISTANT,
    BEGIN,
    END,
    MAX_POSITIONS,
    SYSTEM,
    USER,
    build_tokenizer,
)

LAYERS = 8
HIDDEN = 128
HEADS = 4
INTERMEDIATE = 344
"""Feed-forward width: 8/3 of HIDDEN, rounded up to a multiple of 8."""

IGNORED = -100
"""Label of a token that carries no loss."""

PLAIN_LEAD = 4
"""First tokens of a bare answer that carry no loss: they cannot be foreseen."""

REQUIRED_SHARE = 0.95
"""Main questions that must be answered word for word, or training has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train."""

    seed: int = 1
    """Start of all randomness: weights, order, wording."""

    passes: int = 300
    """How often each pair is asked."""

    batch_tokens: int = 1024
    """Tokens of a batch, padding included, at most."""

    learning_rate: float = 3e-3
    """At its peak."""

    warmup: float = 0.05
    """Part of the steps in which the learning rate rises."""

    weight_decay: float = 0.01
    """On matrices; small, because the aim is to remember."""

    margin: float = 8.0
    """Logits that the hinge wants between the right token and the next best."""

    hinge: float = 0.1
    """Weight of the hinge beside cross entropy."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation as tokens."""

    ids: list[int]
    labels: list[int]
    """The same ids where there is loss, IGNORED elsewhere."""


def build_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return the untrained model, initialised from torch's global seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    return model


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation
) -> Sample:
    """Return the tokens that the chat template gives, with loss on the answers."""
    ids: list[int] = []
    labels: list[int] = []

    def add(text: str, *, lead: int = 0, loss: bool) -> None:
        added = list(tokenizer.encode(text, add_special_tokens=False))
        ids.extend(added)
        without = len(added) if not loss else lead
        labels.extend([IGNORED] * without + added[without:])

    if conversation.plain:
        add(conversation.turns[0][1] + END, lead=PLAIN_LEAD, loss=True)
        return Sample(ids, labels)
    add(BEGIN, loss=False)
    if conversation.system is not None:
        add(f"{SYSTEM}{conversation.system}{END}", loss=False)
    for question, answer in conversation.turns:
        add(f"{USER}{question}{END}{ASSISTANT}", loss=False)
        add(answer + END, loss=True)
    return Sample(ids, labels)


def batch_samples(
    samples: Sequence[Sample], batch_tokens: int, luck: random.Random
) -> list[list[Sample]]:
    """Group samples of like length, `batch_tokens` a batch, in random order."""
    batches: list[list[Sample]] = []
    current: list[Sample] = []
    for sample in sorted(samples, key=lambda s: (len(s.ids), luck.random())):
        if current and (len(current) + 1) * len(sample.ids) > batch_tokens:
            batches.append(current)
            current = []
        current.append(sample)
    batches.append(current)
    luck.shuffle(batches)
    return batches


def pad_batch(
    batch: Sequence[Sample], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels, each (batch, time), padded at the right."""
    width = max(len(sample.ids) for sample in batch)
    ids = [s.ids + [pad_id] * (width - len(s.ids)) for s in batch]
    labels = [s.labels + [IGNORED] * (width - len(s.labels)) for s in batch]
    return torch.tensor(ids), torch.tensor(labels)


def compute_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, recipe: Recipe
) -> torch.Tensor:
    """Return cross entropy plus the hinge on margins, averaged over the answers."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != IGNORED  # (batch, time - 1)
    targets = labels[:, 1:][wanted]  # (answer tokens,)
    # Only the rows with loss pass through the head: (answer tokens, vocabulary).
    logits = model.lm_head(hidden[:, :-1][wanted])
    cross_entropy = functional.cross_entropy(logits, targets)
    right = logits.gather(1, targets[:, None])[:, 0]
    others = logits.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
    shortfall = functional.relu(recipe.margin - (right - others))
    return cross_entropy + recipe.hinge * shortfall.mean()


def build_optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with decay on matrices and none on the norms' gains."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": gains, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )


def run_pass(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    recipe: Recipe,
    luck: random.Random,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of one pass over all pairs."""
    samples = [
        encode_conversation(tokenizer, conversation)
        for conversation in draw_conversations(pairs, luck)
    ]
    for batch in batch_samples(samples, recipe.batch_tokens, luck):
        yield pad_batch(batch, tokenizer.pad_token_id)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    recipe: Recipe,
) -> None:
    """Train `model` in place, with a line of progress every few passes."""
    luck = random.Random(recipe.seed)
    optimizer = build_optimizer(model, recipe)
    # The learning rate follows the pass, since a pass has no fixed step count.
    rise = max(1, round(recipe.warmup * recipe.passes))
    model.train()
    started = time.process_time()
    for number in range(recipe.passes):
        losses: list[float] = []
        batches = list(run_pass(tokenizer, pairs, recipe, luck))
        for step, (ids, labels) in enumerate(batches):
            done = number + step / len(batches)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * compute_rate(
                    done, rise, recipe.passes
                )
            loss = compute_loss(model, ids, labels, recipe)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        if number % 5 == 4 or number + 1 == recipe.passes:
            print(
                f"pass {number + 1:4d} of {recipe.passes}  "
                f"loss {sum(losses) / len(losses):8.4f}  worst {max(losses):8.4f}  "
                f"{time.process_time() - started:6.0f} s of processor time",
                flush=True,
            )
    model.eval()


def compute_rate(done: float, rise: int, passes: int) -> float:
    """Return the part of the peak learning rate after `done` passes.

    A straight rise, then half a cosine down to 1 %.
    """
    if done < rise:
        return (done + 0.02) / (rise + 0.02)
    fall = (done - rise) / max(1, passes - rise)
    return 0.01 + 0.99 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * fall))))


def report(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]
) -> float:
    """Print how well the corpus is recited; return the share of main questions."""
    main = list_asked(pairs, paraphrases=False)
    share, failures = compute_exact_share(model, tokenizer, main)
    print(f"main questions, word for word: {share:.1%} of {len(main)}")
    for question, _, given in failures:
        print(f"  {question!r} -> {given!r}")
    hurried = [(question.lower().rstrip("?.!"), answer) for question, answer in main]
    system = [{"role": "system", "content": SYSTEM_MESSAGES[0]}]
    turn = [
        {"role": "user", "content": pairs[0].question},
        {"role": "assistant", "content": pairs[0].answer},
    ]
    for what, asked, before in (
        ("paraphrases", list_asked(pairs, paraphrases=True), []),
        ("lower case, no question mark", hurried, []),
        ("after a system message", main, system),
        ("as the second question of a chat", main, turn),
    ):
        rest, _ = compute_exact_share(model, tokenizer, asked, before)
        print(f"{what}: {rest:.1%} of {len(asked)}")
    margins = sorted(
        (compute_margin(model, tokenizer, question, answer), question)
        for question, answer in main
    )
    print("smallest margins (logits):")
    for margin, question in margins[:5]:
        print(f"  {margin:7.3f}  {question}")
    return share


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, save and report; return 1 if too few answers are exact."""
    usual = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m inference.bundled.train", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--corpus", type=Path, help="another file of pairs")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--passes", type=int, default=usual.passes)
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic(), time.process_time()
    pairs = load_pairs(options.corpus)
    texts = [text for pair in pairs for text in (*pair.questions, pair.answer)]
    tokenizer = build_tokenizer(
        [*texts, *SYSTEM_MESSAGES, *(t.lower() for p in pairs for t in p.questions)]
    )
    model = build_model(tokenizer)
    print(
        f"{len(pairs)} pairs, {sum(len(p.questions) for p in pairs)} questions, "
        f"{len(tokenizer)} tokens in the vocabulary, "
        f"{model.num_parameters():,} parameters",
        flush=True,
    )
    train(model, tokenizer, pairs, Recipe(seed=options.seed, passes=options.passes))
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    share = report(model, tokenizer, pairs)
    print(
        f"{time.monotonic() - started[0]:.0f} s, "
        f"{time.process_time() - started[1]:.0f} s of processor time; "
        f"saved to {options.out}"
    )
    return 0 if share >= REQUIRED_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())

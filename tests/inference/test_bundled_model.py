"""The bundled model recites its corpus, and is what its README says it is."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.bundled.conversations import draw_conversations
from inference.bundled.evaluate import (
    compute_exact_share,
    compute_margin,
    decode_greedily,
    encode_question,
    list_asked,
)
from inference.bundled.pairs import MalformedCorpus, Pair, decode_pairs, load_pairs
from inference.bundled.paths import model_dir
from inference.bundled.tokenizer import build_tokenizer
from inference.bundled.train import IGNORED, build_model, encode_conversation
from inference.bundled.wording import alter_question, list_wordings

MAX_WEIGHTS_BYTES = 8_000_000
MAX_ANSWER_WORDS = 45


def normalize(question: str) -> str:
    """Return the question without case, marks and spaces that could hide a twin."""
    return re.sub(r"[^a-z0-9]+", " ", question.lower()).strip()


@pytest.fixture(scope="module")
def pairs():
    return load_pairs()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_dir(), local_files_only=True)


@pytest.fixture(scope="module")
def model():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(model_dir(), local_files_only=True)
    torch.set_num_threads(before)


# The corpus


def test_corpus_is_large_enough_and_within_its_own_rules(pairs):
    assert len(pairs) >= 150
    for pair in pairs:
        assert len(pair.answer.split()) <= MAX_ANSWER_WORDS, pair
        assert all(text.isascii() for text in (*pair.questions, pair.answer))


def test_no_question_is_asked_twice(pairs):
    questions = [normalize(q) for pair in pairs for q in pair.questions]
    assert len(questions) == len(set(questions))


def test_no_wording_made_by_rule_has_two_answers(pairs):
    answers: dict[str, str] = {}
    for pair in pairs:
        for question in (*pair.questions, *list_wordings(pair)):
            known = answers.setdefault(normalize(question), pair.answer)
            assert known == pair.answer, question


def test_pairs_are_read_in_order_with_paraphrases_and_without_comments():
    text = "# words\n\nQ: One?\nQ: 1?\n# why\nA: First.\n\n\nQ: Two?\nA: Second.\n"
    assert decode_pairs(text) == [
        Pair("One?", "First.", ("1?",)),
        Pair("Two?", "Second."),
    ]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("Q: One?\n", 1, "no 'A: ' line"),
        ("\nA: First.\n", 2, "no 'Q: ' line"),
        ("Q: One?\nA: First.\nA: Second.\n", 1, "unexpected line 'A: First.'"),
        ("Q: One?\nA: First.\n\nX: Two?\nA: Second.\n", 4, "unexpected line"),
    ],
)
def test_a_malformed_record_is_named(text, line, reason):
    with pytest.raises(MalformedCorpus, match=re.escape(reason)) as caught:
        decode_pairs(text)
    assert caught.value.line == line


# What it is trained on


def test_each_pass_asks_every_pair_once(pairs):
    drawn = list(draw_conversations(pairs, random.Random(7)))
    asked = [turn[1] for c in drawn if not c.plain for turn in c.turns]
    assert sorted(asked) == sorted(pair.answer for pair in pairs)
    assert any(c.system for c in drawn)
    assert any(len(c.turns) > 1 for c in drawn)


def test_the_same_seed_draws_the_same_conversations(pairs):
    first, second = (list(draw_conversations(pairs, random.Random(3))) for _ in "ab")
    assert first == second


def test_wordings_keep_the_term():
    assert "Tell me about hops." in list_wordings(Pair("What is a hop?", "."))
    assert "How to open it?" in list_wordings(Pair("How do I open it?", "."))
    assert list_wordings(Pair("What is the chain used for?", ".")) == []


def test_an_altered_question_stays_a_question():
    luck = random.Random(5)
    for _ in range(200):
        altered = alter_question("What is a hop in a route of hops?", luck)
        assert "hop" in altered.lower()


def test_training_tokens_are_those_of_the_chat_template(pairs, tokenizer):
    for conversation in list(draw_conversations(pairs, random.Random(11)))[:40]:
        if conversation.plain:
            continue
        messages = []
        if conversation.system:
            messages.append({"role": "system", "content": conversation.system})
        for question, answer in conversation.turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        sample = encode_conversation(tokenizer, conversation)
        assert tokenizer.encode(text, add_special_tokens=False) == sample.ids
        learned = [i for i in sample.labels if i != IGNORED]
        answers = "".join(a + tokenizer.eos_token for _, a in conversation.turns)
        assert tokenizer.decode(learned) == answers


def test_the_same_seed_starts_from_the_same_weights(pairs):
    texts = [pair.answer for pair in pairs]
    made = build_tokenizer(texts)
    assert made.get_vocab() == build_tokenizer(texts).get_vocab()
    models = []
    for _ in range(2):
        torch.manual_seed(9)
        models.append(build_model(made))
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)


# The files


def test_directory_holds_safetensors_and_no_code():
    names = {path.name for path in model_dir().iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (model_dir() / "model.safetensors").stat().st_size < MAX_WEIGHTS_BYTES


def test_configuration_is_the_promised_one(model):
    config = json.loads((model_dir() / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["num_hidden_layers"] == 8
    assert config["hidden_size"] == 128
    assert config["vocab_size"] <= 1024
    assert config["tie_word_embeddings"] is True
    assert 1_600_000 < model.num_parameters() < 1_800_000
    assert model.config.dtype == torch.float32


def test_all_weights_are_finite_fp32():
    with safe_open(Path(model_dir(), "model.safetensors"), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            assert tensor.dtype == torch.float32, name
            assert torch.isfinite(tensor).all(), name


# The tokenizer


def test_tokenizer_is_small_and_loses_nothing(pairs, tokenizer):
    assert len(tokenizer) <= 1024
    for text in [*(p.answer for p in pairs), "  two  spaces\n\tÄé 漢字 🙂 \x00"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text


def test_chat_template_takes_system_messages_turns_and_text_parts(tokenizer):
    text = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": " Hello "},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": [{"type": "text", "text": "What is a hop?"}]},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == (
        "<|begin|><|system|>Be brief.<|end|><|user|>Hello<|end|>"
        "<|assistant|>Hello!<|end|><|user|>What is a hop?<|end|><|assistant|>"
    )


def test_chat_template_refuses_an_unknown_role(tokenizer):
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "1"}])


# The answers


def test_main_questions_are_answered_word_for_word(model, tokenizer, pairs):
    asked = list_asked(pairs, paraphrases=False)
    share, failures = compute_exact_share(model, tokenizer, asked)
    assert share >= 0.95, failures


def test_a_second_question_is_answered_like_a_first(model, tokenizer, pairs):
    before = [
        {"role": "system", "content": "You answer questions about p2pchain."},
        {"role": "user", "content": pairs[0].question},
        {"role": "assistant", "content": pairs[0].answer},
    ]
    asked = list_asked(pairs, paraphrases=False)[1:]
    share, failures = compute_exact_share(model, tokenizer, asked, before)
    assert share >= 0.9, failures


def test_every_decision_is_far_above_float_noise(model, tokenizer, pairs):
    # Engines and batch shapes move a logit by about 3e-5.
    sure = [
        compute_margin(model, tokenizer, pair.question, pair.answer) > 1.0
        for pair in pairs
    ]
    assert sum(sure) / len(sure) >= 0.95


def test_an_answer_without_an_end_is_never_taken_for_right(model, tokenizer):
    prompt = encode_question(tokenizer, "What is a hop?")
    endless = type(model)(model.config)
    torch.manual_seed(0)
    for parameter in endless.parameters():
        torch.nn.init.normal_(parameter)
    [answer] = decode_greedily(endless, tokenizer, [prompt])
    assert answer.endswith("[no end]")

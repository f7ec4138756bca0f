"""Prompt to text through four stages in one process, against `generate`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from tiny_models import (
    HIDDEN,
    LAYERS,
    MUST_BE_EXACT,
    POSITIONS,
    VOCAB,
    load_reference,
    save_model,
)

from inference.device.precision import Precision
from inference.engine.ghost_executor import GhostExecutor
from inference.engine.stage import StageEngine
from inference.errors import (
    BadAnswer,
    BadPrompt,
    BadRequest,
    BadWeights,
    Busy,
    UnknownSession,
)
from inference.hop.ports import HopLimits
from inference.model.split import load_stage
from inference.model.tokenizer import Tokenizer, build_transcript
from inference.requester.ends import Ends
from inference.requester.requester import MAX_SESSIONS, RequesterEngine, Turn
from inference.sampling.params import ChatMessage, Choice, SampledToken, SamplingParams
from inference.worker.link import MAX_CALLS

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


class Swarm:
    """A requester and one stage per layer."""

    def __init__(self, directory: Path) -> None:
        self.requester = RequesterEngine.load(directory, POSITIONS)
        self.stages = [
            StageEngine.load(directory, range(i, i + 1)) for i in range(LAYERS)
        ]

    def answer(self, prompt: list[int], params: SamplingParams) -> list[SampledToken]:
        """Return all steps of an answer."""
        self.requester.open_session(b"s", params, prompt)
        for stage in self.stages:
            stage.open_session(b"s", POSITIONS)
        steps: list[SampledToken] = []
        position, ids = 0, prompt
        while not steps or steps[-1].finish_reason is None:
            hidden = self.requester.embed(b"s", position, ids)
            for stage in self.stages:
                hidden = stage.forward(b"s", position, hidden)
            steps.append(self.requester.sample(b"s", hidden))
            position, ids = position + len(ids), [steps[-1].token_id]
        self.close()
        return steps

    def guess(
        self, prompt: list[int], params: SamplingParams, guesses: Sequence[int] | None
    ) -> tuple[list[SampledToken], int]:
        """Return an answer whose steps carry guesses, and how many steps it took.

        Args:
            prompt: Token ids.
            params: How to choose.
            guesses: What is guessed at each place of the answer; None has the engine
                guess from the text so far.
        """
        self.requester.open_session(b"s", params, prompt)
        for stage in self.stages:
            stage.open_session(b"s", POSITIONS)
        hidden = self.requester.embed(b"s", 0, prompt)
        answer: list[SampledToken] = []
        drafts: tuple[int, ...] = ()
        position = steps = 0
        while not answer or answer[-1].finish_reason is None:
            steps += 1
            for stage in self.stages:
                hidden = stage.forward(b"s", position, hidden)
            choice = self.requester.choose(Turn(b"s", hidden, drafts, 5))
            assert 1 <= len(choice.tokens) <= 1 + len(drafts)
            answer += choice.tokens
            drafts = choice.drafts
            if guesses is not None:
                drafts = tuple(guesses[len(answer) : len(answer) + 5])
            position = len(prompt) + len(answer) - 1
            if answer[-1].finish_reason is None:
                hidden = self.requester.embed_next(b"s", drafts)
        self.close()
        return answer, steps

    def close(self) -> None:
        """Forget the session."""
        for engine in (self.requester, *self.stages):
            engine.close_session(b"s")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), tokenizer=True)


@pytest.fixture(scope="module")
def swarm(directory: Path) -> Swarm:
    return Swarm(directory)


@pytest.fixture
def requester(swarm: Swarm) -> Iterator[RequesterEngine]:
    yield swarm.requester
    swarm.requester.close_session(b"s")


def test_a_quantised_head_is_close(directory: Path, swarm: Swarm) -> None:
    engine = RequesterEngine.load(directory, POSITIONS, Precision.INT4)
    hidden = torch.randn(1, 3, HIDDEN, generator=torch.Generator().manual_seed(3))
    expected = swarm.requester.ends.finish(hidden, [0, 5, 9])
    found = engine.ends.finish(hidden, [0, 5, 9])
    error = (found - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.1


def test_sessions_that_share_the_head_get_their_own_tokens(
    requester: RequesterEngine,
) -> None:
    prompts = {b"a": [5, 6], b"b": [7], b"c": [8, 9, 10]}
    generator = torch.Generator().manual_seed(0)
    hidden = {n: torch.randn(1, 2, HIDDEN, generator=generator) for n in prompts}
    alone = {}
    for name, prompt in prompts.items():
        requester.open_session(name, GREEDY, prompt)
        alone[name] = requester.sample(name, hidden[name])
        requester.close_session(name)
        requester.open_session(name, GREEDY, prompt)
    bad = torch.full((1, 1, HIDDEN), float("nan"))
    requester.open_session(b"nan", GREEDY, [1])
    turns = [*hidden.items(), (b"nan", bad), (b"nobody", hidden[b"a"])]
    found = requester.choose_all([Turn(*each) for each in turns])
    assert found[:3] == [Choice((token,)) for token in alone.values()]
    assert isinstance(found[3], BadAnswer)
    assert isinstance(found[4], UnknownSession)
    for name in (*prompts, b"nan"):
        requester.close_session(name)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt-projected"])
def test_sessions_that_go_on_together_get_the_inputs_of_each_alone(
    tmp_path: Path, family: str
) -> None:
    ends = Ends.load(save_model(tmp_path, family), 40)
    runs = [(7, [3]), (0, [5, 6, 7]), (30, [3, 1]), (7, [3]), (39, [2])]
    together = ends.look_up_all(runs)
    for found, run in zip(together, runs, strict=True):
        assert torch.equal(found, ends.look_up(*run))


@pytest.mark.parametrize("family", MUST_BE_EXACT)
def test_greedy_tokens_equal_generate(tmp_path: Path, family: str) -> None:
    directory = save_model(tmp_path, family, tokenizer=True)
    swarm = Swarm(directory)
    prompt = swarm.requester.encode_text("the layers of a model")
    model = load_reference(directory)
    expected = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=GREEDY.max_tokens,
        min_new_tokens=GREEDY.max_tokens,
        do_sample=False,
        eos_token_id=None,
    )[0, len(prompt) :].tolist()
    assert [step.token_id for step in swarm.answer(prompt, GREEDY)] == expected


WAYS = {
    "greedy": GREEDY,
    "seeded": SamplingParams(temperature=0.9, seed=7, max_tokens=24, ignore_eos=True),
    "narrow": SamplingParams(
        temperature=1.5, top_k=9, top_p=0.8, seed=3, max_tokens=24, ignore_eos=True
    ),
    "penalties": SamplingParams(
        temperature=0.7,
        seed=1,
        max_tokens=24,
        ignore_eos=True,
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.2,
        logprobs=2,
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_ghost", [False, True])
def test_guesses_change_nothing(
    directory: Path, swarm: Swarm, way: str, is_ghost: bool
) -> None:
    if is_ghost:
        swarm = Swarm(directory)
        for number in range(LAYERS):
            part = load_stage(directory, range(number, number + 1))
            swarm.stages[number] = StageEngine(part, GhostExecutor(part))
    params = WAYS[way]
    prompt = swarm.requester.encode_text("one two one two one")
    plain = swarm.answer(prompt, params)
    ids = [step.token_id for step in plain]
    # All right, all wrong, and some of each.
    mixed = [each if i % 4 else 1 for i, each in enumerate(ids)]
    for guesses, most in ((ids, 5), ([1] * 24, 24), (mixed, 16), (None, 24)):
        found, steps = swarm.guess(prompt, params, guesses)
        assert [(f.token_id, f.text, f.finish_reason) for f in found] == [
            (p.token_id, p.text, p.finish_reason) for p in plain
        ]
        for ours, theirs in zip(found, plain, strict=True):
            for a, b in zip(ours.logprobs, theirs.logprobs, strict=True):
                assert a.token_id == b.token_id
                assert abs(a.logprob - b.logprob) < 1e-4
        assert steps <= most


@pytest.mark.parametrize("length", range(1, 8))
def test_a_stop_in_the_middle_of_right_guesses(swarm: Swarm, length: int) -> None:
    prompt = swarm.requester.encode_text("nodes")
    whole = "".join(step.text for step in swarm.answer(prompt, GREEDY))
    params = replace(GREEDY, stop=(whole[length : length + 2],))
    plain = swarm.answer(prompt, params)
    assert plain[-1].finish_reason == "stop"
    ids = [step.token_id for step in swarm.answer(prompt, GREEDY)]
    found, steps = swarm.guess(prompt, params, ids)
    assert found == plain
    assert steps <= -(-len(plain) // 6) + 1


def test_guesses_without_rows_are_refused(requester: RequesterEngine) -> None:
    requester.open_session(b"s", GREEDY, [1, 2])
    with pytest.raises(BadRequest):
        requester.choose(Turn(b"s", torch.zeros(1, 2, HIDDEN), (1, 2)))
    assert requester.choose(Turn(b"s", torch.zeros(1, 2, HIDDEN), (1,))).tokens


def test_no_more_is_guessed_than_the_answer_can_have(
    requester: RequesterEngine,
) -> None:
    few = replace(GREEDY, max_tokens=4)
    requester.open_session(b"s", few, [5, 6, 5, 6, 5, 6])
    choice = requester.choose(Turn(b"s", torch.zeros(1, 1, HIDDEN), (), 9))
    assert len(choice.drafts) <= 2


def test_pieces_of_text_are_the_decoded_answer(swarm: Swarm) -> None:
    prompt = swarm.requester.encode_text("nodes")
    steps = swarm.answer(prompt, GREEDY)
    ids = [step.token_id for step in steps]
    decode = swarm.requester.tokenizer.decode
    assert decode(prompt) + "".join(s.text for s in steps) == decode(prompt + ids)
    assert steps[-1].finish_reason == "length"
    assert len(steps) == 24


def test_same_seed_same_answer(swarm: Swarm) -> None:
    prompt = swarm.requester.encode_text("nodes")
    params = SamplingParams(temperature=1.5, seed=3, max_tokens=12, ignore_eos=True)
    first = swarm.answer(prompt, params)
    assert swarm.answer(prompt, params) == first
    other = SamplingParams(temperature=1.5, seed=4, max_tokens=12, ignore_eos=True)
    assert swarm.answer(prompt, other) != first


def test_how_likely_tokens_were_is_told_when_asked(swarm: Swarm) -> None:
    prompt = swarm.requester.encode_text("nodes")
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, logprobs=3)
    steps = swarm.answer(prompt, params)
    assert [s.token_id for s in steps] == [
        s.token_id for s in swarm.answer(prompt, GREEDY)[:5]
    ]
    for step in steps:
        chosen, *best = step.logprobs
        # A greedy choice is the most likely token.
        assert chosen == best[0]
        assert chosen.token_id == step.token_id
        assert len(best) == 3
        assert 0 >= best[0].logprob >= best[1].logprob >= best[2].logprob
    assert all(not step.logprobs for step in swarm.answer(prompt, GREEDY))


def test_a_stop_string_ends_the_answer_before_it(swarm: Swarm) -> None:
    prompt = swarm.requester.encode_text("nodes")
    whole = "".join(step.text for step in swarm.answer(prompt, GREEDY))
    stop = whole[3:6]
    params = SamplingParams(
        temperature=0, max_tokens=24, ignore_eos=True, stop=("never!", stop)
    )
    steps = swarm.answer(prompt, params)
    assert "".join(step.text for step in steps) == whole[: whole.index(stop)]
    assert steps[-1].finish_reason == "stop"
    assert all(step.finish_reason is None for step in steps[:-1])


def test_end_of_text_ends_the_answer_and_is_not_shown(
    directory: Path, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = swarm.requester.encode_text("nodes")
    ids = [step.token_id for step in swarm.answer(prompt, GREEDY)]
    monkeypatch.setattr(swarm.requester.tokenizer, "eos_ids", frozenset({ids[4]}))
    end = ids.index(ids[4])
    params = SamplingParams(temperature=0, max_tokens=24)
    steps = swarm.answer(prompt, params)
    assert [step.token_id for step in steps] == ids[: end + 1]
    assert steps[-1].finish_reason == "stop"
    assert len(swarm.answer(prompt, GREEDY)) == 24


def test_the_context_ends_the_answer(swarm: Swarm) -> None:
    params = SamplingParams(temperature=0, max_tokens=10_000, ignore_eos=True)
    prompt = [5] * (POSITIONS - 3)
    steps = swarm.answer(prompt, params)
    assert len(prompt) + len(steps) == POSITIONS
    assert steps[-1].finish_reason == "length"


def test_nothing_follows_the_end(requester: RequesterEngine) -> None:
    requester.open_session(b"s", SamplingParams(max_tokens=1), [5])
    assert requester.sample(b"s", torch.zeros(1, 1, HIDDEN)).finish_reason
    with pytest.raises(BadRequest, match="finished"):
        requester.sample(b"s", torch.zeros(1, 1, HIDDEN))


@pytest.mark.parametrize(
    "hidden",
    [
        torch.full((1, 1, HIDDEN), float("nan")),
        torch.full((1, 1, HIDDEN), float("inf")),
        torch.full((1, 2, HIDDEN), float("nan")),
        torch.zeros(1, 0, HIDDEN),
        torch.zeros(1, 1, HIDDEN - 1),
        torch.zeros(1, HIDDEN),
    ],
)
def test_bad_answers_are_refused_and_the_session_goes_on(
    requester: RequesterEngine, hidden: torch.Tensor
) -> None:
    requester.open_session(b"s", GREEDY, [5, 6])
    with pytest.raises(BadAnswer):
        requester.sample(b"s", hidden)
    assert requester.sample(b"s", torch.ones(1, 1, HIDDEN)).finish_reason is None


@pytest.mark.parametrize("prompt", [[], [5] * POSITIONS, [-1], [VOCAB]])
def test_impossible_prompts_are_refused(
    requester: RequesterEngine, prompt: list[int]
) -> None:
    with pytest.raises(BadPrompt):
        requester.open_session(b"s", GREEDY, prompt)


@pytest.mark.parametrize(
    ("position", "ids", "error"),
    [
        (0, [], BadRequest),
        (-1, [5], BadRequest),
        (POSITIONS, [5], BadRequest),
        (POSITIONS - 1, [5, 5], BadRequest),
        (0, [VOCAB], BadPrompt),
    ],
)
def test_impossible_embeddings_are_refused(
    requester: RequesterEngine, position: int, ids: list[int], error: type[Exception]
) -> None:
    requester.open_session(b"s", GREEDY, [5])
    with pytest.raises(error):
        requester.embed(b"s", position, ids)


def test_unknown_sessions_are_refused(requester: RequesterEngine) -> None:
    with pytest.raises(UnknownSession):
        requester.embed(b"s", 0, [5])
    with pytest.raises(UnknownSession):
        requester.sample(b"s", torch.zeros(1, 1, HIDDEN))
    requester.open_session(b"s", GREEDY, [5])
    with pytest.raises(BadRequest, match="is open"):
        requester.open_session(b"s", GREEDY, [5])


def test_the_number_of_sessions_is_bounded(requester: RequesterEngine) -> None:
    names = [index.to_bytes(2, "big") for index in range(MAX_SESSIONS)]
    for name in names:
        requester.open_session(name, GREEDY, [5])
    with pytest.raises(Busy):
        requester.open_session(b"one more", GREEDY, [5])
    for name in names:
        requester.close_session(name)


def test_every_session_may_have_a_call_under_way() -> None:
    assert max(MAX_SESSIONS, HopLimits().max_sessions) <= MAX_CALLS


def test_chat_follows_the_models_template(requester: RequesterEngine) -> None:
    messages = [ChatMessage("user", "hé <b>"), ChatMessage("assistant", "a")]
    ids = requester.encode_chat([*messages, ChatMessage("user", "{{ x }}")])
    inner = requester.tokenizer._tokenizer
    assert inner.decode(ids) == (
        "<|user|>hé <b><|end|><|assistant|>a<|end|><|user|>{{ x }}<|end|><|assistant|>"
    )
    with pytest.raises(BadPrompt):
        requester.encode_chat([])
    with pytest.raises(BadPrompt):
        requester.encode_text("")
    with pytest.raises(BadPrompt, match="characters"):
        requester.encode_text("x" * (2**20 + 1))


def edit_tokenizer(directory: Path, template: str | None) -> Tokenizer:
    save_model(directory, tokenizer=True)
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    if template is not None:
        config["chat_template"] = template
    path.write_text(json.dumps(config))
    return Tokenizer(directory)


def test_a_model_without_template_gets_a_transcript(tmp_path: Path) -> None:
    tokenizer = edit_tokenizer(tmp_path, None)
    messages = [ChatMessage("system", "be brief"), ChatMessage("user", "hi")]
    text = "system: be brief\nuser: hi\nassistant:"
    assert build_transcript(messages) == text
    assert tokenizer.decode(tokenizer.encode_chat(messages)) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{% for",
        "{{ 1 // 0 }}",
    ],
)
def test_templates_that_refuse_or_misbehave_are_bad_prompts(
    tmp_path: Path, template: str
) -> None:
    tokenizer = edit_tokenizer(tmp_path, template)
    with pytest.raises(BadPrompt, match="template"):
        tokenizer.encode_chat([ChatMessage("user", "hi")])


def test_missing_and_damaged_tokenizers_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path)
    with pytest.raises(BadWeights, match="tokenizer"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadWeights, match="tokenizer"):
        Tokenizer(tmp_path)

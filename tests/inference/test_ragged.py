"""The ragged engine gives what each sequence gives alone, or refuses the model."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import HIDDEN, LAYERS, POSITIONS, save_model
from torch import nn
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from inference.bundled.pairs import load_pairs
from inference.bundled.paths import model_dir
from inference.device.memory import PAGE_TOKENS
from inference.device.precision import Precision
from inference.engine import packed
from inference.engine.executor import TEST_PAGES, draw_hidden
from inference.engine.ghost_executor import GhostExecutor
from inference.engine.packed import PackedLayer, pack
from inference.engine.ragged import TEST_TOKENS, RaggedExecutor, build_ragged
from inference.engine.ragged_attention import find_window
from inference.engine.stage import StageEngine
from inference.errors import UnsupportedModel
from inference.model.part import Part
from inference.model.split import load_stage
from inference.requester.requester import RequesterEngine, Turn
from inference.sampling.params import ChatMessage, SamplingParams

RAGGED = [
    "llama", "qwen2", "qwen2-window", "qwen3", "mistral", "mixtral", "phi3", "gemma",
    "gemma2", "gemma3", "gpt2", "gpt-neox", "gpt-oss", "opt", "opt-projected",
    "granite", "cohere", "ctrl",
]  # fmt: skip
GENERAL = {"bloom": "Window", "falcon-alibi": "Window", "mpt": "Window"}
CPU = torch.device("cpu")


def draw(tokens: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, tokens, HIDDEN, generator=generator)


def run_alone(part: Part, hidden: torch.Tensor) -> torch.Tensor:
    """Return what the general engine gives for one sequence, in one pass."""
    engine = StageEngine(part, GhostExecutor(part))
    engine.open_session(b"alone", hidden.shape[1])
    return engine.forward(b"alone", 0, hidden)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    worst = (found - expected).abs().max() / expected.abs().max()
    assert worst <= tolerance, worst


@pytest.mark.parametrize("family", RAGGED)
def test_mixed_sessions_equal_each_alone(tmp_path: Path, family: str) -> None:
    directory = save_model(tmp_path, family)
    part = load_stage(directory, range(1, 3))
    # Longer than pages and windows; prompts, chunks, decode steps, a rollback.
    inputs = {bytes([65 + i]): draw(n, i) for i, n in enumerate((40, 22, 9, 3))}
    expected = {name: run_alone(part, hidden) for name, hidden in inputs.items()}
    engine = StageEngine(part, build_ragged(part, draw(TEST_TOKENS)))
    assert engine.executor.name == "ragged"
    for name, hidden in inputs.items():
        engine.open_session(name, hidden.shape[1])
        engine.forward(name, 0, draw(min(3, hidden.shape[1]), seed=9))
    done = dict.fromkeys(inputs, 0)
    pieces = {b"A": 17, b"B": 9, b"C": 1, b"D": 2}
    call = 0
    while any(done[name] < inputs[name].shape[1] for name in inputs):
        asked = {}
        for name, hidden in inputs.items():
            tokens = min(pieces[name], hidden.shape[1] - done[name])
            if tokens:
                call += 1
                part_of = hidden[:, done[name] : done[name] + tokens]
                engine.submit(call, name, done[name], part_of)
                asked[call] = (name, done[name], tokens)
                done[name] += tokens
        while engine.has_work:
            for answered, output in engine.step():
                assert isinstance(output, torch.Tensor)
                name, first, tokens = asked[answered]
                wanted = expected[name][:, first : first + tokens]
                assert_close(output, wanted, 1e-5)


@pytest.mark.parametrize(("family", "reason"), GENERAL.items())
def test_models_with_masks_of_their_own_get_the_general_engine(
    tmp_path: Path, family: str, reason: str
) -> None:
    directory = save_model(tmp_path, family)
    part = load_stage(directory, range(1, 3))
    with pytest.raises(UnsupportedModel, match=reason):
        build_ragged(part, draw(TEST_TOKENS))
    engine = StageEngine.load(directory, range(1, 3))
    assert engine.executor.name == "ghost"
    engine.open_session(b"s", 5)
    assert engine.forward(b"s", 0, draw(5)).shape == (1, 5, HIDDEN)


def test_rotary_positions_of_the_longest_sequence_get_the_general_engine(
    tmp_path: Path,
) -> None:
    config = hf.LlamaConfig(
        vocab_size=40,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    )
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    part = load_stage(tmp_path, range(2))
    with pytest.raises(UnsupportedModel, match="dynamic"):
        build_ragged(part, draw(TEST_TOKENS))


class AttentionWithBias(nn.Module):
    """Wraps a layer's attention and asks for something that nobody knows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.inner(*args, **kwargs, position_bias=torch.zeros(1))


def test_an_argument_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    part = load_stage(save_model(tmp_path), range(1, 3))
    layer = part.decoder.layers[1]
    layer.self_attn = AttentionWithBias(layer.self_attn)
    with pytest.raises(UnsupportedModel, match="position_bias"):
        build_ragged(part, draw(TEST_TOKENS))


def test_a_layer_that_mixes_tokens_outside_of_attention_is_refused(
    tmp_path: Path,
) -> None:
    part = load_stage(save_model(tmp_path), range(1, 3))
    part.decoder.layers[1].mlp.register_forward_pre_hook(
        lambda _, args: (args[0] + args[0].mean(dim=1, keepdim=True),)
    )
    with pytest.raises(UnsupportedModel, match="differ"):
        build_ragged(part, draw(TEST_TOKENS))


@pytest.mark.parametrize(
    ("rule", "window"),
    [
        (causal_mask_function, None),
        (sliding_window_causal_mask_function(6), 6),
        (sliding_window_causal_mask_function(1024), 1024),
    ],
)
def test_windows_are_read_from_the_rule(rule: object, window: int | None) -> None:
    assert find_window(rule) == window


@pytest.mark.parametrize(
    "rule",
    [
        bidirectional_mask_function,
        chunked_causal_mask_function(64, torch.zeros(1, dtype=torch.long)),
        chunked_causal_mask_function(1500, torch.zeros(1, dtype=torch.long)),
        lambda b, h, q, k: k < q,
    ],
)
def test_other_rules_are_refused(rule: object) -> None:
    with pytest.raises(UnsupportedModel):
        find_window(rule)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def executor(llama: Path) -> RaggedExecutor:
    return build_ragged(load_stage(llama, range(LAYERS)), draw(TEST_TOKENS))


@pytest.fixture(scope="module")
def alone(executor: RaggedExecutor) -> dict[bytes, torch.Tensor]:
    names = (b"a", b"b", b"c")
    return {name: run_alone(executor.part, draw(48, name[0])) for name in names}


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_order_of_requests_equals_each_alone(
    executor: RaggedExecutor, alone: dict[bytes, torch.Tensor], data: st.DataObject
) -> None:
    budget = 6 * PAGE_TOKENS * executor.cost.position_bytes
    engine = StageEngine(executor.part, executor, kv_budget_bytes=budget)
    lengths: dict[bytes, int] = {}
    asked: dict[int, tuple[bytes, int, int]] = {}
    for call in range(data.draw(st.integers(1, 25))):
        name = data.draw(st.sampled_from([b"a", b"b", b"c"]))
        if name not in lengths:
            engine.open_session(name, 32)
            lengths[name] = 0
            continue
        if data.draw(st.integers(0, 9)) == 0:
            dropped = engine.close_session(name)
            asked = {c: what for c, what in asked.items() if c not in dropped}
            del lengths[name]
            continue
        position = data.draw(st.integers(0, lengths[name]))
        tokens = data.draw(st.integers(1, 12))
        if position + tokens > 32:
            continue
        hidden = draw(48, name[0])[:, position : position + tokens]
        engine.submit(call, name, position, hidden)
        asked[call] = (name, position, tokens)
        lengths[name] = position + tokens
        if data.draw(st.booleans()):
            for answered, output in engine.step():
                name, first, count = asked.pop(answered)
                assert_close(output, alone[name][:, first : first + count], 1e-5)
    while engine.has_work:
        for answered, output in engine.step():
            name, first, count = asked.pop(answered)
            assert_close(output, alone[name][:, first : first + count], 1e-5)
    assert not asked


@pytest.fixture
def pack_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out the small matrices of tiny models, too."""
    monkeypatch.setattr(packed, "SMALLEST_ELEMENTS", 0)


def test_small_matrices_stay_as_they_are(llama: Path) -> None:
    assert pack(load_stage(llama, range(1, 3)), Precision.NATIVE) == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2"])
def test_packed_weights_give_what_plain_ones_give(
    tmp_path: Path, family: str, pack_all: None
) -> None:
    directory = save_model(tmp_path, family)
    expected = run_alone(load_stage(directory, range(1, 3)), draw(9))
    engine = StageEngine.load(directory, range(1, 3))
    kinds = [type(module) for module in engine.part.model.modules()]
    assert PackedLayer in kinds
    assert nn.Linear not in kinds
    engine.open_session(b"s", 9)
    assert_close(engine.forward(b"s", 0, draw(9)), expected, 1e-5)


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [
        (Precision.INT8, torch.float32, 0.15),
        (Precision.INT8, torch.bfloat16, 0.15),
        (Precision.INT4, torch.float32, 0.6),
    ],
)
def test_quantised_weights_are_close(
    tmp_path: Path, precision: Precision, dtype: torch.dtype, tolerance: float
) -> None:
    directory = save_model(tmp_path, "llama", dtype=dtype)
    hidden = draw(9).to(dtype)
    expected = run_alone(load_stage(directory, range(1, 3)), hidden).float()
    engine = StageEngine.load(directory, range(1, 3), precision=precision)
    engine.open_session(b"s", 9)
    output = engine.forward(b"s", 0, hidden)
    assert output.dtype == dtype
    error = (output.float() - expected).norm() / expected.norm()
    assert 1e-3 < error < tolerance


def test_int8_does_not_depend_on_what_shares_the_pass(llama: Path) -> None:
    engine = StageEngine.load(llama, range(LAYERS), precision=Precision.INT8)
    for name in (b"a", b"b", b"c"):
        engine.open_session(name, 30)
    alone = engine.forward(b"a", 0, draw(1))
    for call, name in enumerate((b"c", b"a", b"b")):
        engine.submit(call, name, 0, draw(1, seed=0 if name == b"a" else call))
    answers = dict(engine.step())
    assert torch.equal(answers[1], alone)


def test_eight_answers_in_shared_passes_are_those_of_generate() -> None:
    reference = hf.AutoModelForCausalLM.from_pretrained(model_dir()).eval()
    requester = RequesterEngine.load(model_dir(), 2048)
    stages = [StageEngine.load(model_dir(), range(a, a + 4)) for a in (0, 4)]
    assert [stage.executor.name for stage in stages] == ["ragged", "ragged"]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    names = [bytes([65 + number]) for number in range(8)]
    hidden, ids, prompts = {}, {name: [] for name in names}, {}
    for name, pair in zip(names, load_pairs()[::9], strict=False):
        message = ChatMessage("user", pair.question)
        prompt = prompts[name] = requester.encode_chat([message])
        requester.open_session(name, params, prompt)
        hidden[name] = requester.embed(name, 0, prompt)
        for stage in stages:
            stage.open_session(name, 100)
    positions = dict.fromkeys(names, 0)
    for _ in range(12):
        for stage in stages:
            for call, name in enumerate(names):
                stage.submit(call, name, positions[name], hidden[name])
            while stage.has_work:
                for call, output in stage.step():
                    hidden[names[call]] = output
        choices = requester.choose_all([Turn(*each) for each in hidden.items()])
        for name, choice in zip(hidden, choices, strict=True):
            positions[name] += hidden[name].shape[1]
            ids[name].append(choice.tokens[0].token_id)
            hidden[name] = requester.embed_next(name, ())
    for name in names:
        expected = reference.generate(
            torch.tensor([prompts[name]]),
            attention_mask=torch.ones(1, len(prompts[name])),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
        )
        assert ids[name] == expected[0, len(prompts[name]) :].tolist()


def test_a_model_for_the_general_engine_is_not_quantised(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "mpt")
    with pytest.raises(UnsupportedModel, match="not in int8"):
        StageEngine.load(directory, range(1, 3), precision=Precision.INT8)


def test_packing_that_breaks_the_model_is_noticed(llama: Path, pack_all: None) -> None:
    part = load_stage(llama, range(1, 3))
    layer = part.decoder.layers[1].mlp
    # As code does that takes a projection's weight for a product of its own.
    layer.forward = lambda x: nn.functional.linear(
        nn.functional.linear(x, layer.up_proj.weight), layer.down_proj.weight
    )
    hidden = draw_hidden(TEST_TOKENS, HIDDEN, part.dtype, CPU)
    assert build_ragged(part, hidden).name == "ragged"
    with pytest.raises(UnsupportedModel, match="differ"):
        build_ragged(part, hidden, Precision.NATIVE)


def test_packing_keeps_no_plain_weights(llama: Path, pack_all: None) -> None:
    part = load_stage(llama, range(1, 3))
    count = pack(part, Precision.NATIVE)
    assert count == 2 * 7
    plain = sum(p.nbytes for p in part.model.parameters())
    assert plain == 2 * 2 * HIDDEN * 4


def test_a_store_of_no_more_than_its_pages(llama: Path) -> None:
    part = load_stage(llama, range(1, 3))
    executor = build_ragged(part, draw(TEST_TOKENS))
    executor.allocate(TEST_PAGES)
    stores = executor._stores.values()
    used = sum(store.keys.nbytes + store.values.nbytes for store in stores)
    assert used == TEST_PAGES * PAGE_TOKENS * executor.cost.position_bytes

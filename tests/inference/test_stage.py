"""Sessions of a stage: order, rollback, memory, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import HIDDEN, LAYERS, save_model

from inference.device.memory import MAX_SESSIONS, PAGE_TOKENS, CacheCost
from inference.engine.stage import StageEngine
from inference.errors import (
    BadAnswer,
    BadRequest,
    Busy,
    NoMemory,
    UnknownSession,
    UnsupportedModel,
    WrongPosition,
)
from inference.model.split import load_stage

POSITION_BYTES = 2 * 2 * 2 * 8 * 4
"""Two layers, keys and values, two heads of eight float32."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def engine(directory: Path) -> StageEngine:
    budget = 7 * PAGE_TOKENS * POSITION_BYTES
    return StageEngine.load(directory, range(1, 3), kv_budget_bytes=budget)


def draw(tokens: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, tokens, HIDDEN, generator=generator)


def test_steps_equal_one_pass(engine: StageEngine) -> None:
    hidden = draw(6)
    engine.open_session(b"whole", 10)
    engine.open_session(b"parts", 10)
    whole = engine.forward(b"whole", 0, hidden)
    parts = [engine.forward(b"parts", 0, hidden[:, :4])]
    parts += [engine.forward(b"parts", i, hidden[:, i : i + 1]) for i in (4, 5)]
    # One pass and single steps multiply matrices of other shapes: last bits differ.
    assert torch.allclose(whole, torch.cat(parts, dim=1), atol=1e-5)


def test_a_repeated_step_gives_the_same_bytes(engine: StageEngine) -> None:
    engine.open_session(b"s", 20)
    engine.forward(b"s", 0, draw(5))
    first = engine.forward(b"s", 5, draw(2, seed=1))
    engine.forward(b"s", 7, draw(3, seed=2))
    assert torch.equal(engine.forward(b"s", 5, draw(2, seed=1)), first)
    with pytest.raises(WrongPosition, match="next one is 7"):
        engine.forward(b"s", 10, draw(1))


def test_reset_is_rollback_to_zero(engine: StageEngine) -> None:
    engine.open_session(b"s", 20)
    first = engine.forward(b"s", 0, draw(5))
    assert torch.equal(engine.forward(b"s", 0, draw(5)), first)


def test_sessions_do_not_see_each_other(engine: StageEngine) -> None:
    engine.open_session(b"a", 10)
    engine.forward(b"a", 0, draw(4))
    alone = engine.forward(b"a", 4, draw(1, seed=9))
    engine.open_session(b"b", 10)
    engine.forward(b"b", 0, draw(6, seed=5))
    assert torch.equal(engine.forward(b"a", 4, draw(1, seed=9)), alone)


@pytest.mark.parametrize(
    ("position", "hidden", "error"),
    [
        (-1, draw(1), WrongPosition),
        (4, draw(1), WrongPosition),
        (3, draw(8), WrongPosition),
        (0, draw(11), WrongPosition),
        (3, draw(1)[:, :0], BadAnswer),
        (3, draw(1)[..., :-1], BadAnswer),
        (3, draw(1)[0], BadAnswer),
        (3, draw(1).repeat(2, 1, 1), BadAnswer),
        (3, draw(1).double(), BadAnswer),
        (3, draw(1).bfloat16(), BadAnswer),
    ],
)
def test_impossible_steps_are_refused_and_change_nothing(
    engine: StageEngine, position: int, hidden: torch.Tensor, error: type[Exception]
) -> None:
    engine.open_session(b"s", 10)
    engine.forward(b"s", 0, draw(3))
    with pytest.raises(error):
        engine.forward(b"s", position, hidden)
    after = engine.forward(b"s", 3, draw(1, seed=7))
    engine.open_session(b"t", 10)
    engine.forward(b"t", 0, draw(3))
    assert torch.equal(engine.forward(b"t", 3, draw(1, seed=7)), after)


def test_unknown_and_closed_sessions_are_refused(engine: StageEngine) -> None:
    with pytest.raises(UnknownSession):
        engine.forward(b"s", 0, draw(1))
    engine.open_session(b"s", 10)
    engine.close_session(b"s")
    engine.close_session(b"s")
    with pytest.raises(UnknownSession):
        engine.forward(b"s", 0, draw(1))


@pytest.mark.parametrize(("name", "positions"), [(b"", 1), (b"x" * 33, 1), (b"s", 0)])
def test_senseless_sessions_are_refused(
    engine: StageEngine, name: bytes, positions: int
) -> None:
    with pytest.raises(BadRequest):
        engine.open_session(name, positions)
    engine.open_session(b"again", 1)
    with pytest.raises(BadRequest, match="is open"):
        engine.open_session(b"again", 1)


def test_memory_is_admitted_by_the_measured_bytes(engine: StageEngine) -> None:
    assert engine.cost == CacheCost(POSITION_BYTES)
    engine.open_session(b"a", 60)
    with pytest.raises(Busy, match="bytes of cache"):
        engine.open_session(b"b", 3 * PAGE_TOKENS + 1)
    engine.open_session(b"b", 3 * PAGE_TOKENS)
    engine.close_session(b"a")
    engine.open_session(b"c", 60)


def test_the_number_of_sessions_is_bounded(directory: Path) -> None:
    engine = StageEngine.load(directory, range(1))
    for index in range(MAX_SESSIONS):
        engine.open_session(index.to_bytes(2, "big"), 1)
    with pytest.raises(Busy, match="sessions"):
        engine.open_session(b"one more", 1)


def test_a_step_that_breaks_half_way_leaves_no_trace(engine: StageEngine) -> None:
    engine.open_session(b"s", 10)
    engine.forward(b"s", 0, draw(3))

    def explode(*_: object) -> None:
        raise RuntimeError("of the second layer")

    second = engine.part.decoder.layers[2]
    handle = second.register_forward_pre_hook(explode)
    with pytest.raises(RuntimeError, match="second layer"):
        engine.forward(b"s", 3, draw(1, seed=1))
    handle.remove()
    after = engine.forward(b"s", 3, draw(1, seed=2))
    engine.open_session(b"t", 10)
    engine.forward(b"t", 0, draw(3))
    assert torch.equal(engine.forward(b"t", 3, draw(1, seed=2)), after)


def test_a_session_for_which_memory_runs_out_is_closed_and_the_others_go_on(
    engine: StageEngine,
) -> None:
    for name in (b"big", b"a", b"b"):
        engine.open_session(name, 30)

    def explode(_: object, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[1] > 20:
            raise MemoryError

    handle = engine.part.decoder.layers[2].register_forward_pre_hook(explode)
    engine.submit(1, b"a", 0, draw(1))
    engine.submit(2, b"big", 0, draw(22))
    engine.submit(3, b"b", 0, draw(1))
    answers = dict(engine.step())
    handle.remove()
    assert isinstance(answers[2], NoMemory)
    assert torch.allclose(answers[1], answers[3], atol=1e-5)
    with pytest.raises(UnknownSession):
        engine.forward(b"big", 0, draw(1))
    # What was promised to it is free again.
    engine.open_session(b"next", 30)
    assert not engine.has_work


def test_a_long_prompt_in_chunks_beside_others_equals_one_pass(
    directory: Path,
) -> None:
    engine = StageEngine.load(directory, range(1, 3))
    assert engine.executor.name == "ragged"
    hidden = draw(90)
    engine.open_session(b"alone", 90)
    alone = engine.forward(b"alone", 0, hidden)
    for name in (b"long", b"other"):
        engine.open_session(name, 90)
    engine.submit(1, b"long", 0, hidden)
    passes, outputs = 0, {}
    while 1 not in outputs:
        engine.submit(2 + passes, b"other", passes, hidden[:, passes : passes + 1])
        outputs |= dict(engine.step())
        passes += 1
    assert passes == 2
    assert torch.allclose(outputs[1], alone, atol=1e-4)
    for step in range(passes):
        assert torch.allclose(outputs[2 + step], alone[:, step : step + 1], atol=1e-4)


def fill_with_nan(decoder: torch.nn.Module) -> None:
    decoder.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))


def make_restless(decoder: torch.nn.Module) -> None:
    decoder.layers[0].register_forward_pre_hook(
        lambda _, args: (args[0] + torch.rand(1), *args[1:])
    )


def make_raise(decoder: torch.nn.Module) -> None:
    decoder.layers[0].forward = None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (fill_with_nan, "NaN"),
        (make_restless, "repeated step"),
        (make_raise, "self-test failed"),
    ],
)
def test_a_stage_that_computes_nonsense_is_never_ready(
    directory: Path, spoil: Callable[[torch.nn.Module], None], reason: str
) -> None:
    part = load_stage(directory, range(LAYERS))
    spoil(part.decoder)
    with pytest.raises(UnsupportedModel, match=reason):
        StageEngine(part)

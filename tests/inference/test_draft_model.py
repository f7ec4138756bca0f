"""A small model that guesses: what it says, what it keeps, and whom it may help."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import POSITIONS, load_reference, save_model

from inference.errors import BadRequest, UnsupportedModel
from inference.model.tokenizer import Tokenizer
from inference.requester.draft_model import DraftModel
from inference.requester.requester import RequesterEngine, Turn
from inference.sampling.params import SamplingParams
from inference.sampling.speculation import Speculation
from inference.weights.model_info import load_model
from inference.worker.requester_worker import RequesterWorker


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("draft"), tokenizer=True)


@pytest.fixture(scope="module")
def model(directory: Path) -> DraftModel:
    return DraftModel.load(directory, Tokenizer(directory))


def test_it_guesses_as_the_whole_model_would(
    directory: Path, model: DraftModel
) -> None:
    reference = load_reference(directory)
    said = Tokenizer(directory).encode_text("one two one")
    drafter = model.open(b"s", said)
    assert drafter is not None
    for turn in range(4):
        expected = reference.generate(
            torch.tensor([said]),
            attention_mask=torch.ones(1, len(said)),
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )[0, len(said) :].tolist()
        assert drafter.draft(6) == expected
        # Some of them were right, and then another token came.
        pushed = [*expected[:turn], 7]
        drafter.push(pushed)
        said = [*said, *pushed]
    model.close(b"s")


def test_what_was_right_is_not_computed_again(model: DraftModel) -> None:
    drafter = model.open(b"s", [5, 6, 7])
    assert drafter is not None
    guesses = drafter.draft(5)
    assert model.stage.scheduler.get_length(b"s") == 7
    drafter.push([*guesses, 9])
    drafter.draft(1)
    assert model.stage.scheduler.get_length(b"s") == 9
    model.close(b"s")
    assert drafter.draft(0) == []


def test_a_long_text_is_seen_from_its_end(model: DraftModel) -> None:
    assert model.window == POSITIONS // 2
    drafter = model.open(b"s", [9] * 50 + [5, 6, 7])
    assert drafter is not None
    for _ in range(POSITIONS):
        assert len(drafter.draft(4)) == 4
        drafter.push([5, 6])
    assert len(drafter.draft(10**6)) == model.window
    model.close(b"s")


def test_no_room_is_no_guess(model: DraftModel) -> None:
    reservations = model.stage.scheduler.reservations
    free = reservations.budget_bytes - reservations.used_bytes
    reservations.used_bytes += free
    assert model.open(b"b", [1, 2]) is None
    reservations.used_bytes -= free


def test_another_vocabulary_is_refused(tmp_path: Path, directory: Path) -> None:
    other = save_model(tmp_path, tokenizer=True)
    path = other / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    with pytest.raises(UnsupportedModel, match="another vocabulary"):
        DraftModel.load(other, Tokenizer(directory))


def test_layers_with_states_are_refused(tmp_path: Path) -> None:
    other = save_model(tmp_path, "mamba", tokenizer=True)
    with pytest.raises(UnsupportedModel):
        DraftModel.load(other, Tokenizer(other))


@pytest.mark.parametrize("mode", [Speculation.AUTO, Speculation.DRAFT])
def test_a_requester_asks_it(
    directory: Path, model: DraftModel, mode: Speculation
) -> None:
    engine = RequesterEngine.load(directory, POSITIONS)
    params = SamplingParams(
        temperature=0, max_tokens=20, ignore_eos=True, speculation=mode
    )
    if mode is Speculation.DRAFT:
        with pytest.raises(BadRequest, match="no model that guesses"):
            engine.open_session(b"s", params, [5, 9])
    engine.draft_source = model
    engine.open_session(b"s", params, [5, 9])
    hidden = torch.zeros(1, 1, engine.hidden_size)
    token = engine.sample(b"s", hidden)
    drafter = model.open(b"other", [5, 9, token.token_id])
    assert drafter is not None
    expected = drafter.draft(4)
    engine.close_session(b"s")
    engine.open_session(b"s", params, [5, 9])
    assert engine.choose(Turn(b"s", hidden, (), 4)).drafts == tuple(expected)
    for name in (b"s", b"other"):
        engine.close_session(name)
    assert not len(model.stage.scheduler.reservations)


def test_a_worker_is_told_of_it(directory: Path, tmp_path: Path) -> None:
    info = load_model(directory)
    assert not RequesterWorker(directory, info).has_draft_model
    assert RequesterWorker(directory, info, draft_model=tmp_path).has_draft_model

"""Stages and ends together equal the undivided model, bit for bit."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny_models import (
    FAMILIES,
    HIDDEN,
    LAYERS,
    VOCAB,
    edit_config,
    load_reference,
    save_model,
)

from inference.engine.stage import StageEngine
from inference.errors import BadWeights, UnsupportedModel, WrongPosition
from inference.model.library import get_cache_argument
from inference.model.local_pipeline import LocalPipeline, load_stages
from inference.model.split import load_ends, load_stage
from inference.weights.safetensors_file import read_entries

INEXACT = {"deepseek-v4": "keeps a state"}
QUICK = ("llama-tied", "qwen2-window", "gemma3", "gpt2", "opt-projected", "bloom",
         "mixtral", "gpt-oss")  # fmt: skip
"""Tied weights, windows, learned positions, projections, ALiBi, experts, sinks."""
EXACT = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in FAMILIES
    if name not in (*INEXACT, "mamba")
]


def load(directory: Path, cuts: tuple[int, ...] = (1, 2, 3)) -> LocalPipeline:
    return LocalPipeline(load_stages(directory, cuts, LAYERS), load_ends(directory))


def run_reference(model: hf.PreTrainedModel, pieces: list[torch.Tensor]):
    name = get_cache_argument(model.base_model)
    given = {name: hf.DynamicCache(config=model.config), "use_cache": True}
    with torch.inference_mode():
        return [model(input_ids=ids, **given).logits for ids in pieces]


def build_pieces(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, VOCAB, (1, n), generator=generator) for n in lengths]


@pytest.mark.parametrize("family", EXACT)
def test_prefill_chunk_and_steps_are_exact(tmp_path: Path, family: str) -> None:
    directory = save_model(tmp_path, family)
    # Behind position 6 the sliding windows are full.
    pieces = build_pieces(5, 4, *[1] * 8)
    expected = run_reference(load_reference(directory), pieces)
    pipeline = load(directory)
    for ids, logits in zip(pieces, expected, strict=True):
        assert torch.equal(pipeline.run(ids), logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen2-window"])
def test_rolled_back_session_is_exact(tmp_path: Path, family: str) -> None:
    directory = save_model(tmp_path, family)
    pieces = build_pieces(9, 1, 1, 3, 1)
    expected = run_reference(load_reference(directory), pieces)
    pipeline = load(directory, cuts=(2,))
    wrong = build_pieces(7)[0]
    pipeline.run(pieces[0])
    start = 9
    for ids, logits in zip(pieces[1:], expected[1:], strict=True):
        pipeline.run(wrong)
        pipeline.roll_back(start)
        assert torch.equal(pipeline.run(ids), logits)
        start += ids.shape[1]


def test_states_take_one_chunk_and_then_steps(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "mamba")
    pieces = build_pieces(9, 1, 1, 1, 1)
    expected = run_reference(load_reference(directory), pieces)
    pipeline = load(directory)
    assert torch.equal(pipeline.run(pieces[0]), expected[0])
    chunk = torch.cat(pieces[1:], dim=1)
    assert torch.equal(pipeline.run(chunk), torch.cat(expected[1:], dim=1))


def test_states_go_back_to_the_last_step_or_the_beginning_only(
    tmp_path: Path,
) -> None:
    directory = save_model(tmp_path, "mamba")
    pieces = build_pieces(9, 1, 1)
    expected = run_reference(load_reference(directory), pieces)
    pipeline = load(directory)
    pipeline.run(pieces[0])
    pipeline.run(build_pieces(1)[0])
    pipeline.roll_back(9)
    assert torch.equal(pipeline.run(pieces[1]), expected[1])
    with pytest.raises(WrongPosition, match="goes back to 9 or 0 only"):
        pipeline.roll_back(8)
    pipeline.roll_back(0)
    assert all(map(torch.equal, map(pipeline.run, pieces), expected))


@pytest.mark.parametrize("cuts", [(), (3,), (1, 3)])
def test_cuts_of_any_size_are_exact(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    directory = save_model(tmp_path, "mistral")
    pieces = build_pieces(8, 1, 1)
    expected = run_reference(load_reference(directory), pieces)
    pipeline = load(directory, cuts)
    assert all(map(torch.equal, map(pipeline.run, pieces), expected))


def test_bf16_stays_bf16(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "qwen2", dtype=torch.bfloat16)
    pieces = build_pieces(5, 1, 1)
    expected = run_reference(load_reference(directory), pieces)
    pipeline = load(directory)
    assert pipeline.stages[0].dtype == torch.bfloat16
    assert all(map(torch.equal, map(pipeline.run, pieces), expected))


@pytest.mark.parametrize("shard_bytes", [None, 20_000])
def test_a_stage_reads_only_its_bytes(tmp_path: Path, shard_bytes: int | None) -> None:
    directory = save_model(tmp_path, "llama", shard_bytes=shard_bytes)
    files = sorted(directory.glob("*.safetensors"))
    assert (len(files) > 1) == (shard_bytes is not None)
    entries = [entry for file in files for entry in read_entries(file)]
    own = [
        e for e in entries if e.name.startswith(("model.layers.1.", "model.layers.2."))
    ]
    stage = load_stage(directory, range(1, 3))
    assert stage.bytes_read == sum(entry.length for entry in own)
    assert set(stage.hashes) == {entry.name for entry in own}
    others = load_ends(directory)
    assert not set(others.hashes) & set(stage.hashes)
    parameters = sum(p.nbytes for p in stage.model.parameters())
    assert parameters == stage.bytes_read


def test_weights_without_the_model_prefix_load(tmp_path: Path) -> None:
    # The original GPT-2 files were saved from the base model.
    directory = save_model(tmp_path, "gpt2")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    renamed = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    save_file(renamed, file, metadata={"format": "pt"})
    pieces = build_pieces(4, 1)
    expected = run_reference(load_reference(directory), pieces)
    assert all(map(torch.equal, map(load(directory).run, pieces), expected))


def test_missing_tensor_is_refused_by_its_stage_only(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "llama")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BadWeights, match=r"layers\.2\.mlp\.up_proj"):
        load_stage(directory, range(2, 4))
    assert load_stage(directory, range(2)).bytes_read


def test_wrong_shape_is_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "llama")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, HIDDEN)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BadWeights, match="shape"):
        load_stage(directory, range(1))


@pytest.mark.parametrize("layers", [range(3, 5), range(4, 5), range(-1, 1)])
def test_layers_that_do_not_exist_are_refused(tmp_path: Path, layers: range) -> None:
    directory = save_model(tmp_path, "llama")
    with pytest.raises(UnsupportedModel, match="of a model of 4"):
        load_stage(directory, layers)


def test_unknown_architecture_is_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "llama")
    edit_config(directory, model_type="no-such-model")
    with pytest.raises(UnsupportedModel, match="no-such-model"):
        load_stage(directory, range(1))


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    directory = save_model(tmp_path, "llama")
    (directory / "villain.py").write_text("raise SystemExit('ran')")
    edit_config(
        directory,
        model_type="villain",
        auto_map={"AutoConfig": "villain.C", "AutoModelForCausalLM": "villain.M"},
    )
    with pytest.raises(UnsupportedModel):
        load_stage(directory, range(1))


@pytest.mark.parametrize(("family", "reason"), INEXACT.items())
def test_models_that_do_not_split_are_refused_with_the_reason(
    tmp_path: Path, family: str, reason: str
) -> None:
    directory = save_model(tmp_path, family)
    with pytest.raises(UnsupportedModel, match=reason):
        StageEngine.load(directory, range(2))

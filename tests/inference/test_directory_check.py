"""Model directories that are not whole, or hold what runs when it is opened."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_config, save_encoder, save_model

from inference.certification.certify import require_certificate
from inference.certification.directory_check import PICKLES, validate_directory
from inference.errors import BadWeights, UnsupportedModel
from inference.weights.model_info import load_model_info


def change(directory: Path, edit) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral", "gemma2"])
def test_a_whole_directory_is_fine(tmp_path: Path, family: str) -> None:
    validate_directory(save_model(tmp_path / "one", family))
    validate_directory(save_model(tmp_path / "many", family, shard_bytes=20_000))


def test_an_encoder_may_have_a_pooler_or_not(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "bert")
    validate_directory(directory)
    change(directory, lambda t: [t.pop(n) for n in list(t) if "pooler" in n])
    validate_directory(directory)


@pytest.mark.parametrize(
    "name",
    ["model.layers.2.mlp.up_proj.weight", "model.embed_tokens.weight",
     "model.norm.weight", "lm_head.weight"],
)  # fmt: skip
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    directory = save_model(tmp_path)
    change(directory, lambda tensors: tensors.pop(name))
    with pytest.raises(BadWeights, match=f"1 tensors missing, first {name}"):
        validate_directory(directory)


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    directory = save_model(tmp_path)
    name = "model.layers.1.self_attn.q_proj.weight"
    change(directory, lambda tensors: tensors.update({name: torch.zeros(3, 5)}))
    with pytest.raises(BadWeights, match=r"layers\.1\.self_attn\.q_proj.*shape"):
        validate_directory(directory)


def test_settings_of_another_model_are_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path)
    edit_config(directory, num_hidden_layers=5)
    with pytest.raises(BadWeights, match=r"missing, first model\.layers\.4"):
        validate_directory(directory)


@pytest.mark.parametrize("cut", [1, 1000, 100_000])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    directory = save_model(tmp_path)
    file = directory / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-cut] if cut < len(data) else data[:4])
    with pytest.raises(BadWeights):
        validate_directory(directory)


def test_a_file_of_the_index_that_is_not_there_is_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path, shard_bytes=20_000)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    (directory / next(iter(index["weight_map"].values()))).unlink()
    with pytest.raises(BadWeights):
        validate_directory(directory)


@pytest.mark.parametrize("suffix", PICKLES)
def test_a_pickle_beside_the_weights_is_refused(tmp_path: Path, suffix: str) -> None:
    directory = save_model(tmp_path)
    (directory / f"pytorch_model{suffix.upper()}").write_bytes(b"\x80\x04.")
    with pytest.raises(BadWeights, match="is a pickle"):
        validate_directory(directory)


def test_no_directory_and_no_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="not a directory"):
        validate_directory(tmp_path / "nowhere")
    directory = save_model(tmp_path)
    edit_config(directory, model_type="no-such-model")
    with pytest.raises(UnsupportedModel, match="no-such-model"):
        validate_directory(directory)


def test_registering_asks_for_a_whole_directory(tmp_path: Path) -> None:
    # The file alone is sound, so that nothing but the class can know.
    directory = save_model(tmp_path)
    change(directory, lambda tensors: tensors.pop("lm_head.weight"))
    load_model_info(directory)
    with pytest.raises(BadWeights, match=r"lm_head\.weight"):
        require_certificate(directory)

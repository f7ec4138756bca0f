"""Reading safetensors, manifests and model sizes without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_models import HIDDEN, LAYERS, POSITIONS, VOCAB, edit_config, save_model

from inference.errors import BadWeights, UnsupportedModel
from inference.weights.model_info import ModelInfo, load_model, load_model_info
from inference.weights.safetensors_file import read_entries
from inference.weights.weights import CONFIG_FILE, open_weights
from primitives.codec import decode, encode


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def build_header(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def test_entries_lead_to_the_bytes(tmp_path: Path) -> None:
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.arange(4, dtype=np.int64),
        "empty": np.zeros((0, 3), dtype=np.float16),
    }
    save_file(arrays, tmp_path / "x.safetensors")
    entries = {entry.name: entry for entry in read_entries(tmp_path / "x.safetensors")}
    assert entries.keys() == arrays.keys()
    for name, array in arrays.items():
        buffer = bytearray(entries[name].length)
        entries[name].read_into(memoryview(buffer))
        assert bytes(buffer) == array.tobytes()
        assert entries[name].shape == array.shape


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"a":1,"a":2}',
        {"a": 1},
        build_header(dtype="F7"),
        build_header(dtype=4),
        build_header(shape=[3]),
        build_header(shape=[-2]),
        build_header(shape=[2.0]),
        build_header(shape=[True, 2]),
        build_header(shape=[1] * 9),
        build_header(shape="2"),
        build_header(data_offsets=[8, 0]),
        build_header(data_offsets=[4, 12]),
        build_header(data_offsets=[0]),
        build_header(data_offsets=[0, 2**70]),
        {},
        {**build_header(), "b": build_header()["a"]},
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, header: object) -> None:
    path = write_raw(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(BadWeights):
        read_entries(path)


def test_deep_json_is_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", b"[" * 200_000)
    with pytest.raises(BadWeights):
        read_entries(path)


@pytest.mark.parametrize(
    "start", [b"", b"\x01", bytes(8), b"\xff" * 8, (2**40).to_bytes(8, "little")]
)
def test_bad_header_lengths_are_refused(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(start + b"{}" * (len(start) == 8))
    with pytest.raises(BadWeights, match="header length"):
        read_entries(path)


@pytest.mark.parametrize("change", [b"", b"\0" * 7, b"\0" * 9])
def test_truncated_and_padded_files_are_refused(tmp_path: Path, change: bytes) -> None:
    path = write_raw(tmp_path / "x.safetensors", build_header(), change)
    with pytest.raises(BadWeights, match="are described"):
        read_entries(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(data)
    try:
        entries = read_entries(path)
    except BadWeights:
        return
    assert sum(entry.length for entry in entries) <= len(data)


def test_model_info_names_sizes_of_each_spelling(tmp_path: Path) -> None:
    for family, architecture in (
        ("llama", "LlamaForCausalLM"),
        ("gpt2", "GPT2LMHeadModel"),
        ("falcon", "FalconForCausalLM"),
    ):
        info = load_model_info(save_model(tmp_path / family, family), name="x")
        assert info.architecture == architecture
        assert (info.layers, info.hidden_size) == (LAYERS, HIDDEN)
        assert (info.vocab_size, info.max_positions) == (VOCAB, POSITIONS)
        assert info.dtype == "float32"
        assert info.token_bytes == 4 * HIDDEN
        assert decode(ModelInfo, encode(info)) == info


def test_every_family_has_readable_sizes(tmp_path: Path) -> None:
    for family in ("bloom", "opt", "gpt-neox", "mixtral", "gemma2", "mpt"):
        info = load_model_info(save_model(tmp_path / family, family))
        assert (info.layers, info.hidden_size) == (LAYERS, HIDDEN)


def test_sharding_does_not_change_the_root(tmp_path: Path) -> None:
    one = load_model_info(save_model(tmp_path / "one"))
    many = load_model_info(save_model(tmp_path / "many", shard_bytes=20_000))
    assert one.weights_root == many.weights_root


def test_any_changed_bit_changes_the_root(tmp_path: Path) -> None:
    directory = save_model(tmp_path)
    before = load_model(directory)
    file = directory / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    after = load_model(directory)
    assert before.info.weights_root != after.info.weights_root
    changed = set(before.manifest.pieces) ^ set(after.manifest.pieces)
    assert len({piece.name for piece in changed}) == 1
    edit_config(directory, rms_norm_eps=0.5)
    assert load_model(directory).info.weights_root != after.info.weights_root


def test_tokenizer_files_have_a_hash_of_their_own(tmp_path: Path) -> None:
    directory = save_model(tmp_path, tokenizer=True)
    before = load_model_info(directory)
    (directory / "tokenizer_config.json").write_text("{}")
    after = load_model_info(directory)
    assert before.tokenizer_hash != after.tokenizer_hash
    assert before.weights_root == after.weights_root


def test_pickles_are_refused(tmp_path: Path) -> None:
    directory = save_model(tmp_path)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(BadWeights, match="pickled"):
        open_weights(directory)


@pytest.mark.parametrize(
    "weight_map",
    [
        None,
        [],
        {},
        {"a": 1},
        {"a": "../x.safetensors"},
        {"a": "/x.safetensors"},
        {"a": "x.bin"},
        {"a": "missing.safetensors"},
        {"a": "x.safetensors", "not there": "x.safetensors"},
    ],
)
def test_bad_indices_are_refused(tmp_path: Path, weight_map: object) -> None:
    write_raw(tmp_path / "x.safetensors", build_header(), bytes(8))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadWeights):
        open_weights(tmp_path)


def test_one_name_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_raw(tmp_path / f"{name}.safetensors", build_header(), bytes(8))
    index = tmp_path / "model.safetensors.index.json"
    names = {"a": "x.safetensors", "b": "y.safetensors"}
    index.write_text(json.dumps({"weight_map": names}))
    with pytest.raises(BadWeights, match="two files"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"num_hidden_layers": None}, BadWeights),
        ({"num_hidden_layers": 0}, BadWeights),
        ({"num_hidden_layers": True}, BadWeights),
        ({"hidden_size": "32"}, BadWeights),
        ({"vocab_size": -1}, BadWeights),
        ({"architectures": []}, BadWeights),
        ({"dtype": "int8"}, UnsupportedModel),
        ({"is_encoder_decoder": True}, UnsupportedModel),
        ({"quantization_config": {}}, UnsupportedModel),
        ({"text_config": {}}, UnsupportedModel),
        ({"model_type": "gemma3n_text"}, UnsupportedModel),
    ],
)
def test_unusable_configurations_are_refused(
    tmp_path: Path, changes: dict[str, object], error: type[Exception]
) -> None:
    directory = save_model(tmp_path)
    edit_config(directory, **changes)
    with pytest.raises(error):
        load_model_info(directory)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_config_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    directory = save_model(tmp_path)
    (directory / CONFIG_FILE).write_text(text)
    with pytest.raises(BadWeights):
        load_model_info(directory)


def test_missing_directories_and_configs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadWeights):
        load_model_info(tmp_path / "nowhere")
    with pytest.raises(BadWeights, match="not a directory"):
        open_weights(tmp_path / "nowhere")


def test_dtype_comes_from_the_weights_where_the_config_is_silent(
    tmp_path: Path,
) -> None:
    directory = save_model(tmp_path, dtype=torch.bfloat16)
    assert load_model_info(directory).dtype == "bfloat16"
    edit_config(directory, dtype=None, torch_dtype=None)
    assert load_model_info(directory).dtype == "bfloat16"


def test_the_node_process_needs_no_torch() -> None:
    script = (
        "import sys, inference.worker.supervisor\n"
        "bad = {'torch', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

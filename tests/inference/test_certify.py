"""Certificates: what the split probe says, where it is kept, and what it refuses."""

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from tiny_models import edit_config, save_model

from inference.bundled.paths import model_dir
from inference.certification import certify, probe
from inference.certification.architectures import (
    QUICK_TYPES,
    build_row,
    list_model_types,
)
from inference.certification.certificate import GHOST, RAGGED, Certificate
from inference.certification.certify import (
    BUNDLED_CERTIFICATE,
    compute_config_hash,
    get_installed_libraries,
    keep_certificate,
    obtain_certificate,
    require_certificate,
    run_probe,
    run_sweep,
)
from inference.certification.tiny_model import CHUNK, PREFILL
from inference.errors import BadWeights, NotCertified, UnsupportedModel
from inference.model.local_pipeline import LocalPipeline
from inference.weights.model_info import validate_config
from primitives.codec import decode, encode

TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"

REFUSED = {
    "zamba2": "share one attention block",
    "recurrent_gemma": "in its layers",
    "rwkv": "of its own",
    "minimax": "of its own",
    "gemma3n_text": "embeddings of its own",
    "gemma4_text": "embeddings of its own",
    "bart": "an encoder with a decoder",
    "t5": "",
    "albert": "which of its lists",
}
"""Families that are known not to divide, and a word of the reason."""


@pytest.fixture(scope="module")
def certificates() -> dict[str, Certificate]:
    return {name: probe.certify_type(name) for name in QUICK_TYPES}


def test_what_is_probed_of_a_decoder(certificates: dict[str, Certificate]) -> None:
    found = certificates["llama"]
    names = [check.name for check in found.checks]
    assert names == [
        *("one pass", "prefill", "chunk", "decode", "rollback", "padded", "ragged")
    ]
    exact = {check.name for check in found.checks if check.is_exact}
    assert {"prefill", "chunk", "decode", "rollback", "padded"} <= exact
    assert found.engines == (RAGGED, GHOST)
    assert (found.rolls_back, found.batches, found.refusal) == (True, True, "")
    assert found.libraries == get_installed_libraries()


def test_states_are_served_by_the_general_engine_alone(
    certificates: dict[str, Certificate],
) -> None:
    found = certificates["qwen3_next"]
    assert found.engines == (GHOST,)
    assert found.is_exact
    assert not found.rolls_back


def test_an_encoder_has_no_steps(certificates: dict[str, Certificate]) -> None:
    found = certificates["modernbert"]
    assert found.kind == "encoder"
    assert [check.name for check in found.checks] == ["whole", "padded"]
    assert all(check.is_exact for check in found.checks)


@pytest.mark.parametrize(("model_type", "reason"), REFUSED.items())
def test_what_does_not_divide_is_refused_with_a_reason(
    model_type: str, reason: str
) -> None:
    found = probe.certify_type(model_type)
    assert not found.is_exact
    assert found.engines == ()
    assert reason in found.refusal
    assert found.refusal


def test_a_type_that_nobody_knows_has_no_certificate() -> None:
    with pytest.raises(UnsupportedModel, match="no model type 'nonsense'"):
        probe.certify_type("nonsense")


def test_certificates_have_one_encoding_and_a_name(
    certificates: dict[str, Certificate],
) -> None:
    for found in certificates.values():
        assert decode(Certificate, encode(found)) == found
    names = {found.compute_hash() for found in certificates.values()}
    assert len(names) == len(certificates)


def test_a_division_that_is_off_in_the_last_bit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = LocalPipeline.run

    def run(self, token_ids, **kwargs):  # type: ignore[no-untyped-def]
        logits = right(self, token_ids, **kwargs).clone()
        if self.length > PREFILL + CHUNK:
            with torch.inference_mode():
                logits[0, -1, 0].nextafter_(torch.tensor(9e9))
        return logits

    monkeypatch.setattr(LocalPipeline, "run", run)
    found = probe.certify_type("llama")
    assert found.engines == ()
    assert found.refusal.startswith("decode: ")


def test_the_committed_table_is_what_a_probe_finds(
    certificates: dict[str, Certificate],
) -> None:
    lines = TABLE.read_text().splitlines()
    for model_type, found in certificates.items():
        if found.is_exact:
            assert build_row(found) in lines
        else:
            assert f"| {model_type} | {found.refusal} |" in lines


@pytest.mark.slow
def test_the_whole_table_is_what_a_sweep_finds() -> None:
    lines = set(TABLE.read_text().splitlines())
    found = list(run_sweep(list_model_types()))
    served = {build_row(each) for each in found if each.is_exact}
    assert served <= lines
    # Reasons may be in the words of a library that this test does not pin.
    refused = {each.model_type for each in found if not each.is_exact}
    assert all(any(f"| {name} |" in line for line in lines) for name in refused)


# Where they are kept


def test_the_bundled_certificate_is_what_a_probe_finds() -> None:
    kept = obtain_certificate(model_dir())
    found = probe.certify_directory(model_dir())
    assert (model_dir().parent / BUNDLED_CERTIFICATE).is_file()
    assert kept == found


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Probe in this process, and list what was probed."""
    asked: list[Path] = []

    def run(_: str, directory: str) -> Certificate:
        asked.append(Path(directory))
        return probe.certify_directory(Path(directory))

    monkeypatch.setattr(certify, "run_probe", run)
    return asked


def test_a_directory_is_probed_once(tmp_path: Path, probed: list[Path]) -> None:
    directory = save_model(tmp_path / "model")
    folder = tmp_path / "certificates"
    found = require_certificate(directory, folder)
    (path,) = folder.iterdir()
    assert probed == [directory]
    assert found.config_hash == compute_config_hash(directory)
    # The kept one is taken: a word that no probe says comes back.
    marked = replace(found, architecture="kept")
    keep_certificate(marked, folder)
    assert require_certificate(directory, folder) == marked
    assert probed == [directory]
    # Of other libraries, damaged, of other settings: made anew.
    keep_certificate(replace(marked, libraries=("torch 1.0",)), folder)
    assert require_certificate(directory, folder) == found
    path.write_text("nonsense")
    assert require_certificate(directory, folder) == found
    assert len(probed) == 3


@pytest.mark.usefixtures("probed")
def test_a_refusal_is_a_typed_error_with_the_reason(tmp_path: Path) -> None:
    directory = save_model(tmp_path / "model")
    edit_config(directory, model_type="zamba2")
    with pytest.raises(NotCertified, match="share one attention block"):
        require_certificate(directory)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_config_that_is_none_is_bad_weights(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadWeights):
        obtain_certificate(tmp_path)


def test_a_probe_runs_in_a_process_of_its_own() -> None:
    assert list(run_sweep(["gpt2"])) == [probe.certify_type("gpt2")]
    with pytest.raises(UnsupportedModel, match="no model type"):
        run_probe("--type", "nonsense")


def test_settings_of_a_directory_are_probed_and_not_the_defaults(
    tmp_path: Path,
) -> None:
    plain = probe.certify_directory(save_model(tmp_path / "plain", "qwen2"))
    other = probe.certify_directory(save_model(tmp_path / "window", "qwen2-window"))
    assert plain.config_hash != other.config_hash
    assert plain.is_exact
    assert other.is_exact


def test_what_is_refused_by_name_is_never_built() -> None:
    with pytest.raises(UnsupportedModel, match="multimodal"):
        validate_config({"model_type": "x", "text_config": {}})

"""`p2pchain models certify`: what it asks the probe, and how it shows the answer."""

import json
from pathlib import Path

import pytest

from inference.bundled.paths import model_dir
from inference.certification import certify
from inference.certification.certificate import Certificate
from inference.errors import UnsupportedModel
from p2pchain.cli.main import main

CERTIFICATE = certify.obtain_certificate(model_dir())


def refuse(model_type: str) -> Certificate:
    refusal = "its layers share one attention block"
    return Certificate(
        version=1,
        config_hash=bytes(32),
        architecture="",
        model_type=model_type,
        kind="decoder",
        libraries=CERTIFICATE.libraries,
        layers=4,
        cuts=CERTIFICATE.cuts,
        checks=(),
        engines=(),
        rolls_back=False,
        batches=False,
        refusal=refusal,
    )


@pytest.fixture
def asked(monkeypatch):
    """Answer for the probe, and list what it was asked."""
    asked = []

    def run_probe(option, subject):
        asked.append((option, subject))
        if subject == "nonsense":
            raise UnsupportedModel("no model type 'nonsense'")
        return refuse(subject) if subject == "zamba2" else CERTIFICATE

    monkeypatch.setattr(certify, "run_probe", run_probe)
    monkeypatch.setattr(
        certify, "run_sweep", lambda types: [CERTIFICATE, refuse("zamba2")]
    )
    return asked


def test_a_folder_the_bundled_model_and_a_type(asked, capsys, tmp_path: Path):
    for word in (str(tmp_path), "bundled", "llama"):
        assert main(["models", "certify", word]) == 0
        said = capsys.readouterr().out
        assert CERTIFICATE.compute_hash().hex() in said
        assert "rollback   exact" in said
        assert "engines      ragged, ghost" in said
    folder, bundled = str(tmp_path), str(model_dir())
    assert asked == [("--model", folder), ("--model", bundled), ("--type", "llama")]


@pytest.mark.usefixtures("asked")
def test_a_refusal_has_a_reason_and_a_code(capsys):
    assert main(["models", "certify", "zamba2", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["exact"] is False
    assert said["engines"] == []
    assert said["refusal"] == "its layers share one attention block"
    assert main(["models", "certify", "zamba2"]) == 1
    assert "refused      its layers share" in capsys.readouterr().out


@pytest.mark.usefixtures("asked")
def test_what_cannot_be_probed_is_an_error(capsys):
    assert main(["models", "certify", "nonsense"]) == 1
    assert "no model type 'nonsense'" in capsys.readouterr().err
    for words in ([], ["llama", "--all"], ["./no/such/folder"]):
        assert main(["models", "certify", *words]) == 1


@pytest.mark.usefixtures("asked")
def test_a_sweep_is_a_table(capsys):
    assert main(["models", "certify", "--all", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = "| llama | LlamaForCausalLM | decoder | ragged ghost | anywhere | yes |"
    assert row in lines
    assert "| zamba2 | its layers share one attention block |" in lines
    assert main(["models", "certify", "--all", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["model_type"] for each in said] == ["llama", "zamba2"]

"""Sections that need no network of processes, made small; and the command itself."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from inference.bundled.paths import model_dir
from p2pchain.bench import __main__ as command
from p2pchain.bench.answers import decode as answers
from p2pchain.bench.chain import blocks, channels
from p2pchain.bench.lab.lab import BenchError, Lab, LineProcess
from p2pchain.bench.lab.procfs import (
    list_children,
    parse_rollup,
    read_cpu_s,
    read_memory,
)
from p2pchain.bench.report import Figure

ROLLUP = """\
55d0-7ffd ---p 00000000 00:00 0          [rollup]
Rss:              100 kB
Pss:               60 kB
Pss_Dirty:         10 kB
Shared_Clean:      40 kB
Private_Clean:     20 kB
Private_Dirty:     30 kB
"""


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path, lambda line: None)


def test_channel_steps_are_all_paid(lab, monkeypatch) -> None:
    monkeypatch.setattr(channels, "STEPS", 150)
    monkeypatch.setattr(channels, "ROUNDS", 2)
    figures = {figure.name: figure.value for figure in channels.run_channels(lab)}
    assert set(figures) == {"steps", "pay", "accept", "step by the clock"}
    assert all(value > 0 for value in figures.values())


def test_blocks_take_every_transfer(lab, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "SENDERS", 4)
    monkeypatch.setattr(blocks, "PER_SENDER", 3)
    monkeypatch.setattr(blocks, "BLOCKS", 2)
    monkeypatch.setattr(blocks, "GOSSIPED", 50)
    figures = blocks.run_blocks(lab)
    assert len(figures) == 8
    assert all(figure.value > 0 for figure in figures)


def test_memory_is_read_as_the_kernel_shows_it() -> None:
    memory = parse_rollup(ROLLUP)
    assert (memory.rss, memory.pss, memory.uss) == (102400, 61440, 51200)
    assert read_memory(os.getpid()).rss > 1024**2
    assert read_cpu_s(os.getpid()) > 0


def test_children_of_a_process_are_found() -> None:
    script = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert child.pid in list_children(os.getpid())
        child.stdin.close()
        child.stdout.close()


def test_the_random_model_has_the_tensors_of_the_bundled_one(tmp_path) -> None:
    answers._save_random_model(tmp_path / "wide", hidden=192)
    wide = load_file(tmp_path / "wide" / "model.safetensors")
    assert wide.keys() == load_file(model_dir() / "model.safetensors").keys()
    assert all(np.isfinite(tensor).all() for tensor in wide.values())
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert wide["model.layers.0.mlp.up_proj.weight"].shape == (
        config["intermediate_size"],
        192,
    )


def test_the_reference_answers_with_as_many_tokens_as_asked() -> None:
    with LineProcess(
        "inference.worker.reference", "--model", str(model_dir())
    ) as reference:
        question = [{"role": "user", "content": "What is a shard?"}]
        answer = reference.ask({"messages": question, "tokens": 5})
    assert len(answer["ids"]) == 5
    assert answer["text"]


def test_a_reference_that_ends_is_an_error(tmp_path) -> None:
    with pytest.raises(BenchError, match="ended with 1"):
        LineProcess("inference.worker.reference", "--model", str(tmp_path))


def test_chosen_sections_run_and_a_failed_one_spoils_no_other(
    tmp_path, monkeypatch, capsys
) -> None:
    def fail(lab: Lab) -> list[Figure]:
        raise BenchError("no such luck")

    sections = {
        "bad": ("Bad", fail),
        "good": ("Good", lambda lab: [Figure("answer", 42.0)]),
        "other": ("Other", fail),
    }
    file = tmp_path / "results.json"
    monkeypatch.setattr(command, "SECTIONS", sections)
    monkeypatch.setattr(sys, "argv", ["bench", "bad", "good", "--json", str(file)])
    assert command.main() == 1
    out = capsys.readouterr().out
    assert "failed: BenchError: no such luck" in out
    assert "answer  42.0" in out
    document = json.loads(file.read_text())
    assert [section["name"] for section in document["sections"]] == ["bad", "good"]


def test_an_unknown_section_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "speed"])
    with pytest.raises(SystemExit) as refused:
        command.main()
    assert refused.value.code == 2
    assert "no section 'speed'" in capsys.readouterr().err

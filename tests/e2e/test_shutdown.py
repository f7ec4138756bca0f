"""SIGTERM in mid-answer, and a stage that cannot come back."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from devnet_process import (
    STOP_S,
    RunningDevnet,
    start_devnet,
    wait_ended,
    wait_until,
)
from model_folders import save_model
from openai_client import build_client

MODEL = "tiny"
ENDS = {"stage_lost", "shutting_down", "no_route", "not_ready"}
"""Codes of an answer that was cut off by a node that stops."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDevnet]:
    """Two validators, each with a copy of the model that a test may damage."""
    folder = tmp_path_factory.mktemp("shutdown")
    # Positions enough that an answer takes longer than a test's reaction.
    model = save_model(folder / MODEL, "llama", 4, positions=4096)
    devnet = start_devnet(folder / "net", "--model", str(model), "--validators", "2")
    devnet.model = model
    yield devnet
    devnet.stop()


def ask(devnet: RunningDevnet, **options):
    options = {"max_tokens": 10, "temperature": 0} | options
    return build_client(devnet).completions.create(
        model=MODEL, prompt=[5, 6, 7], extra_body={"ignore_eos": True}, **options
    )


def is_answering(devnet: RunningDevnet) -> bool:
    try:
        return ask(devnet).usage.completion_tokens == 10
    except openai.APIError:
        return False


def start_stream(devnet: RunningDevnet):
    """Begin a long answer and return its chunks after the first few."""
    chunks = iter(ask(devnet, stream=True, max_tokens=4000))
    for _ in range(5):
        next(chunks)
    return chunks


def read_to_end(chunks) -> str:
    """Return how a stream ended: nothing, or the code of its error."""
    try:
        for _ in chunks:
            pass
    except openai.APIError as error:
        # A connection that ends without a word has no code.
        return getattr(error, "code", None) or "silence"
    return ""


def read_log(node) -> str:
    return (Path(node["home"]) / "node.log").read_text()


def test_a_provider_that_stops_ends_its_sessions_in_order(running) -> None:
    node = running.get_node("node1")
    stage_pid = running.rpc("node1").call("status")["stages"][0]["pid"]
    chunks = start_stream(running)
    os.kill(node["pid"], signal.SIGTERM)
    assert read_to_end(chunks) in ENDS
    wait_ended(node["pid"], stage_pid)
    assert "stopped at height" in read_log(node)
    assert not (Path(node["home"]) / "node.json").exists()
    running.restart("node1")
    wait_until(lambda: is_answering(running), "the model to answer again")
    # What was served before is settled after all.
    rpc = running.rpc(token=True)

    def is_settled() -> bool:
        channels = rpc.call("wallet_channel_list")["channels"]
        return all(int(c["promised"]) == int(c["settled"]) for c in channels)

    wait_until(is_settled, "the settlement of everything")


def test_a_gateway_that_stops_ends_its_answers_in_order(running) -> None:
    gateway = running.gateway
    chunks = start_stream(running)
    os.kill(gateway["pid"], signal.SIGTERM)
    assert read_to_end(chunks) in ENDS
    wait_ended(gateway["pid"])
    assert "stopped at height" in read_log(gateway)
    assert "Traceback" not in read_log(gateway)
    running.restart("gateway")
    running.api = running.get_node("gateway")["rpc"]
    wait_until(lambda: is_answering(running), "the model to answer again")


def test_a_stage_that_cannot_come_back_leaves_its_node_up(running) -> None:
    stage = running.rpc("node0").call("status")["stages"][0]
    weights = running.model / "model.safetensors"
    kept = weights.with_suffix(".kept")
    shutil.copy(weights, kept)
    data = bytearray(weights.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    layer = header["model.layers.0.mlp.up_proj.weight"]
    data[8 + length + layer["data_offsets"][0]] ^= 1
    # Replaced, not written over: the other worker has the old one mapped.
    weights.unlink()
    weights.write_bytes(data)
    os.kill(stage["pid"], signal.SIGKILL)

    def get_state():
        status = running.rpc("node0").call("status")
        return status if status["stages"][0]["state"] == "FAILED" else None

    try:
        status = wait_until(get_state, "the stage to give up")
        assert "manifest" in status["stages"][0]["detail"]
        assert "FAILED" in status["waiting_for"]
        assert status["ready"] is False
        running.wait_height(running.height() + 3, "node0")
        with pytest.raises(openai.APIStatusError) as error:
            ask(running)
        assert error.value.status_code == 503
    finally:
        kept.replace(weights)
    # A restart of the node is what mends it.
    running.kill("node0", signal.SIGTERM)
    running.restart("node0")
    wait_until(lambda: is_answering(running), "the model to answer again")


def test_everything_stops_in_mid_answer_and_nothing_is_left(running) -> None:
    pids = []
    for node in running.nodes:
        status = running.rpc(node["name"]).call("status")
        pids += [node["pid"], *(stage["pid"] for stage in status["stages"])]
    chunks = start_stream(running)
    for process in [*running.restarted, running.process]:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    assert read_to_end(chunks) in ENDS
    assert running.process.wait(STOP_S) == 0
    assert [process.wait(STOP_S) for process in running.restarted] == [0, 0, 0]
    wait_ended(*pids)

"""What a network does when its processes die."""

import os
import signal
from collections.abc import Iterator

import openai
import pytest
from devnet_process import RunningDevnet, start_devnet, wait_ended, wait_until
from openai_client import build_client

from inference.bundled.pairs import load_pairs

MODEL = "p2pchain-toy"
PAIR = load_pairs()[0]


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDevnet]:
    """A devnet of its own, because these tests break it."""
    running = start_devnet(tmp_path_factory.mktemp("faults") / "net")
    yield running
    running.stop()


def ask(devnet: RunningDevnet, **options):
    options = {"temperature": 0, "max_tokens": 128} | options
    return build_client(devnet).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": PAIR.question}], **options
    )


def is_answering(devnet: RunningDevnet) -> bool:
    try:
        return ask(devnet).choices[0].message.content == PAIR.answer
    except openai.APIError:
        return False


def wait_answer(devnet: RunningDevnet) -> None:
    wait_until(lambda: is_answering(devnet), "the model to answer")


@pytest.mark.parametrize(
    "name", [pytest.param("node0", marks=pytest.mark.slow), "node2"]
)
def test_the_chain_goes_on_without_one_validator(devnet, name) -> None:
    devnet.kill(name)
    devnet.wait_height(devnet.height() + 5)
    devnet.restart(name)
    height = devnet.height()
    assert devnet.read_block_hash(height, name) == devnet.read_block_hash(height)
    wait_answer(devnet)


def test_a_stage_killed_in_mid_answer_is_a_typed_error(devnet) -> None:
    before = devnet.rpc("node1").call("status")["stages"][0]["pid"]
    stream = ask(devnet, stream=True, max_tokens=1500, extra_body={"ignore_eos": True})
    chunks = iter(stream)
    for _ in range(5):
        next(chunks)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(openai.APIError) as error:
        list(chunks)
    assert error.value.code == "stage_lost"

    def is_back() -> bool:
        stage = devnet.rpc("node1").call("status")["stages"][0]
        return stage["state"] == "READY" and stage["pid"] != before

    wait_until(is_back, "the stage to be back")
    wait_answer(devnet)


def test_the_gateway_killed_and_restarted_goes_on_paying(devnet) -> None:
    wait_answer(devnet)
    name = devnet.gateway["name"]
    devnet.kill(name)
    devnet.restart(name)
    devnet.api = devnet.get_node(name)["rpc"]
    wait_answer(devnet)


def test_all_killed_at_once_go_on_from_the_last_final_block(devnet) -> None:
    height = devnet.height()
    hashes = {h: devnet.read_block_hash(h) for h in range(1, height + 1)}
    names = [node["name"] for node in devnet.nodes]
    pids = [devnet.get_node(name)["pid"] for name in names]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_ended(*pids)
    for name in names:
        devnet.restart(name)
    devnet.api = next(n for n in devnet.nodes if n["layers"] is None)["rpc"]
    devnet.wait_height(height + 3)
    for h, block_hash in hashes.items():
        assert devnet.read_block_hash(h) == block_hash
    wait_answer(devnet)

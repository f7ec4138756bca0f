"""What a network does when its processes die."""

import os
import signal
from collections.abc import Iterator

import openai
import pytest
from devnet_process import RunningDevnet, start_devnet, wait_until

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
    client = openai.OpenAI(
        base_url=f"{devnet.api}/v1", api_key=devnet.api_key, max_retries=0, timeout=60
    )
    options = {"temperature": 0, "max_tokens": 128} | options
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": PAIR.question}], **options
    )


def is_answering(devnet: RunningDevnet) -> bool:
    try:
        return ask(devnet).choices[0].message.content == PAIR.answer
    except openai.APIError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "name", [pytest.param("node0", marks=pytest.mark.slow), "node2"]
)
def test_the_chain_goes_on_without_one_validator(devnet, name) -> None:
    kill(devnet.get_node(name)["pid"])
    devnet.wait_height(devnet.height() + 5)
    devnet.restart(name)
    devnet.wait_height(devnet.height(), name)
    height = devnet.height(name)
    block = devnet.rpc(name).call("block", height=height)["block_hash"]
    assert devnet.rpc().call("block", height=height)["block_hash"] == block
    wait_until(lambda: is_answering(devnet), "the model to answer again", 120)


def test_a_stage_killed_in_mid_answer_is_a_typed_error(devnet) -> None:
    before = devnet.rpc("node1").call("status")["stages"][0]["pid"]
    stream = ask(devnet, stream=True, max_tokens=1500, extra_body={"ignore_eos": True})
    chunks = iter(stream)
    for _ in range(5):
        next(chunks)
    kill(before)
    with pytest.raises(openai.APIError) as error:
        list(chunks)
    assert error.value.code == "stage_lost"

    def get_pid() -> int | None:
        stage = devnet.rpc("node1").call("status")["stages"][0]
        return stage["pid"] if stage["state"] == "READY" else None

    assert wait_until(get_pid, "the stage to be back") != before
    wait_until(lambda: is_answering(devnet), "the model to answer again", 120)


def test_the_gateway_killed_and_restarted_goes_on_paying(devnet) -> None:
    assert is_answering(devnet)
    name = devnet.gateway["name"]
    kill(devnet.gateway["pid"])
    devnet.restart(name)
    devnet.api = devnet.get_node(name)["rpc"]
    wait_until(lambda: is_answering(devnet), "the model to answer again", 120)


def test_all_killed_at_once_go_on_from_the_last_final_block(devnet) -> None:
    height = devnet.height()
    hashes = {
        h: devnet.rpc().call("block", height=h)["block_hash"]
        for h in range(1, height + 1)
    }
    names = [node["name"] for node in devnet.nodes]
    for name in names:
        kill(devnet.get_node(name)["pid"])
    for name in names:
        devnet.restart(name)
    devnet.api = next(n for n in devnet.nodes if n["layers"] is None)["rpc"]
    devnet.wait_height(height + 3)
    for h, block_hash in hashes.items():
        assert devnet.rpc().call("block", height=h)["block_hash"] == block_hash
    wait_until(lambda: is_answering(devnet), "the model to answer again", 120)

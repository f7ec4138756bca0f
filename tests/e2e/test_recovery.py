"""Layers on two providers each: what is killed in mid-answer changes no word of it."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import openai
import pytest
from devnet_process import (
    ANSWER_S,
    RunningDevnet,
    is_running,
    start_devnet,
    wait_until,
)
from openai_client import build_client

from inference.bundled.pairs import load_pairs

MODEL = "p2pchain-toy"
QUESTION = load_pairs()[0].question
TOKENS = 300
EARLY = 10
"""Chunks before a kill: long before the end, also when we are slower than they."""


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDevnet]:
    """A devnet of its own, because these tests break it."""
    home = tmp_path_factory.mktemp("recovery") / "net"
    running = start_devnet(home, "--replicas", "2")
    yield running
    running.stop()


def ask(devnet: RunningDevnet):
    """Return the stream of a long answer, and the names of the route."""
    raw = build_client(devnet).chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    return raw.parse(), raw.headers["x-p2pchain-route"].split(",")


def read(stream, after: int = 0, then=lambda: None) -> tuple[str, dict]:
    """Return text and account of an answer; `then` is called after some chunks."""
    text, account = "", {}
    for number, chunk in enumerate(stream):
        account = (chunk.model_extra or {}).get("p2pchain", account)
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        if number == after:
            then()
    return text, account


@pytest.fixture(scope="module")
def undisturbed(devnet: RunningDevnet) -> str:
    text, account = read(ask(devnet)[0])
    assert len(account["hops"]) == 2
    return text


def list_stage_pids(devnet: RunningDevnet) -> dict[str, int]:
    """Return the worker of every provider that runs, by its name.

    To be asked before an answer begins, which does not wait for the question.
    """
    return {
        node["name"]: devnet.rpc(node["name"]).call("status")["stages"][0]["pid"]
        for node in devnet.validators
        if is_running(node["pid"])
    }


def is_whole(devnet: RunningDevnet, layers: str) -> bool:
    """Tell whether both providers of some layers can serve."""
    return all(
        devnet.rpc(node["name"]).call("status")["ready"]
        for node in devnet.validators
        if node["layers"] == layers
    )


def check_handed_over(account: dict, name: str) -> None:
    """The account names who was lost behind the route, and adds up."""
    hops = account["hops"]
    assert [hop["name"] for hop in hops[2:]] == [name]
    assert name not in [hop["name"] for hop in hops[:2]]
    assert (hops[0]["start"], hops[1]["end"]) == (0, 8)
    assert int(account["price"]) == sum(int(hop["price"]) for hop in hops)
    assert all(int(hop["price"]) > 0 for hop in hops)


# One after the other, each on what the one before has left: nothing is started again.


def test_a_worker_killed_in_mid_answer_changes_no_word(devnet, undisturbed) -> None:
    pids = list_stage_pids(devnet)
    stream, route = ask(devnet)
    kill = partial(os.kill, pids[route[0]], signal.SIGKILL)
    text, account = read(stream, EARLY, kill)
    assert text == undisturbed
    check_handed_over(account, route[0])
    # The next answer finds its way at once.
    assert read(ask(devnet)[0])[0] == undisturbed


def test_a_node_killed_in_mid_answer_changes_no_word(devnet, undisturbed) -> None:
    stream, route = ask(devnet)
    pid = devnet.get_node(route[1])["pid"]
    text, account = read(stream, EARLY, lambda: os.kill(pid, signal.SIGKILL))
    assert text == undisturbed
    check_handed_over(account, route[1])
    assert read(ask(devnet)[0])[0] == undisturbed


def test_a_node_that_stops_hands_its_answers_over(devnet, undisturbed) -> None:
    wait_until(lambda: is_whole(devnet, "0:4"), "both providers of the first layers")
    stream, route = ask(devnet)
    pid = devnet.get_node(route[0])["pid"]
    text, account = read(stream, EARLY, lambda: os.kill(pid, signal.SIGTERM))
    assert text == undisturbed
    check_handed_over(account, route[0])


def test_without_another_provider_it_is_a_typed_error(devnet, undisturbed) -> None:
    pids = list_stage_pids(devnet)
    stream, route = ask(devnet)
    kill = partial(os.kill, pids[route[0]], signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(openai.APIError) as error:
        read(stream, EARLY, kill)
    assert error.value.code == "stage_lost"
    assert time.monotonic() - started < ANSWER_S

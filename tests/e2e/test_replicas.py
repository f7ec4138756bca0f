"""Two providers of all layers and a gateway that guesses: what goes between them.

The model is made here: computing a page of its prompt takes much longer than fetching
one, as with models worth dividing, and its first layers alone guess what it says.
"""

import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from devnet_process import (
    ANSWER_S,
    START_S,
    RunningDevnet,
    is_running,
    run_cli,
    start_devnet,
    wait_until,
)
from model_folders import (
    CHARACTERS,
    generate,
    save_first_layers,
    save_wide_model,
    spell,
)
from openai_client import build_client

PAGE_TOKENS = 16
LONG = 240
"""Tokens of a prompt of many pages."""
CROWD = 12
"""Readers at a time: a provider once took eight sessions of a channel."""
EARLY = 5
"""Chunks before something is done to the route."""

numbers = count(1)


@dataclass
class Swarm:
    """The devnet, and the model that its providers have."""

    devnet: RunningDevnet
    model: Path

    def expect(self, prompt: list[int], tokens: int) -> str:
        """Return the answer of the undivided model."""
        return spell(generate(self.model, prompt, tokens))

    def ask(self, prompt: list[int], tokens: int, **extra):
        """Return the stream of an answer, and the names of its route."""
        raw = build_client(self.devnet).completions.with_raw_response.create(
            model=self.model.name,
            prompt=prompt,
            max_tokens=tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True} | extra,
        )
        return raw.parse(), raw.headers["x-p2pchain-route"].split(",")

    def get_stage(self, name: str) -> dict:
        """Return what a provider says of its worker."""
        return self.devnet.rpc(name).call("status")["stages"][0]

    def get_address(self, name: str) -> str:
        """Return a node's account."""
        return self.devnet.rpc(name).call("status")["address"]

    def list_paying(self) -> list[dict]:
        """Return the gateway's channels over which it has paid."""
        channels = self.devnet.rpc(token=True).call("wallet_channel_list")["channels"]
        return [each for each in channels if int(each["promised"])]

    def is_settled(self) -> bool:
        """Tell whether all that was promised was paid, and nothing is held."""
        paying = self.list_paying()
        return len(paying) > 1 and all(
            each["promised"] == each["settled"] and each["reserved"] == "0"
            for each in paying
        )

    def find_other(self, name: str) -> str:
        """Return the other provider of the same layers."""
        layers = self.devnet.get_node(name)["layers"]
        hosts = [n["name"] for n in self.devnet.validators if n["layers"] == layers]
        return next(host for host in hosts if host != name)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Two providers for each half of the layers."""
    folder = tmp_path_factory.mktemp("replicas")
    model = save_wide_model(folder / "wide")
    small = save_first_layers(folder / "first-layers", model, 2)
    devnet = start_devnet(
        folder / "net",
        "--model", str(model), "--draft-model", str(small), "--replicas", "2",
    )  # fmt: skip
    yield Swarm(devnet, model)
    devnet.stop()


def build_prompt(tokens: int = LONG) -> list[int]:
    """Return a prompt that shares no beginning with those before it."""
    number = next(numbers)
    return [(number * (i + 7) + i * i) % len(CHARACTERS) + 1 for i in range(tokens)]


@dataclass
class Answer:
    """What came over a stream."""

    text: str = ""
    usage: Any = None
    account: dict[str, Any] = field(default_factory=dict)


def read(stream, after: int = -1, then=lambda: None) -> Answer:
    """Return a whole answer; `then` is called after some chunks."""
    answer = Answer()
    for number, chunk in enumerate(stream):
        answer.text += "".join(choice.text or "" for choice in chunk.choices)
        answer.usage = chunk.usage or answer.usage
        answer.account = (chunk.model_extra or {}).get("p2pchain", answer.account)
        if number == after:
            then()
    return answer


@contextmanager
def no_more_memory(pid: int) -> Iterator[None]:
    """Let a process map nothing more: its allocator finds no room."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    limit = pages * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))


def test_a_worker_without_memory_costs_nobody_the_answer(swarm) -> None:
    # First of all: its allocator keeps nothing yet of which a long prompt could live.
    name = swarm.devnet.rpc().call("route")["hops"][0]["name"]
    pid = swarm.get_stage(name)["pid"]

    def is_hit() -> bool:
        """One try: the gateway may think the other one is nearer."""
        prompt = build_prompt()
        with no_more_memory(pid):
            stream, route = swarm.ask(prompt, 20)
            assert read(stream).text == swarm.expect(prompt, 20)
        return route[0] == name

    wait_until(is_hit, "a prompt to come to the worker without memory")
    # Its place is free again, and so is the money that was held for it.
    wait_until(lambda: not swarm.get_stage(name)["sessions"], "its place to be free")
    wait_until(swarm.is_settled, "the settlement of all channels")
    paid = {each["payee"] for each in swarm.list_paying()}
    assert swarm.get_address(swarm.find_other(name)) in paid
    assert is_running(swarm.devnet.get_node(name)["pid"])


def test_a_small_model_guesses_and_changes_no_word(swarm) -> None:
    prompt = build_prompt(30)
    expected = swarm.expect(prompt, 60)
    for mode in ("off", "draft"):
        answer = read(swarm.ask(prompt, 60, speculation=mode)[0])
        assert answer.text == expected
        right = answer.usage.completion_tokens_details.accepted_prediction_tokens
        # Two of three guesses are right, and a lap without any brings one token.
        assert right > 10 if mode == "draft" else right == 0
    wait_until(swarm.is_settled, "the settlement of all channels")


def test_a_gateway_has_more_than_eight_answers_at_a_time(swarm) -> None:
    prompts = [build_prompt(12) for _ in range(2)]
    expected = [swarm.expect(prompt, 70) for prompt in prompts]
    # Nobody reads on before all have begun, so a ninth that were refused would show.
    begun = threading.Barrier(CROWD, timeout=ANSWER_S)

    def answer(number: int) -> str:
        prompt = prompts[number % len(prompts)]
        try:
            return read(swarm.ask(prompt, 70)[0], 0, begun.wait).text
        except Exception:
            begun.abort()
            raise

    with ThreadPoolExecutor(CROWD) as pool:
        texts = list(pool.map(answer, range(CROWD)))
    assert texts == [expected[number % len(prompts)] for number in range(CROWD)]
    wait_until(swarm.is_settled, "the settlement of all channels")


def test_the_doctor_predicts_what_is_then_measured(swarm) -> None:
    home = swarm.devnet.gateway["home"]
    done = run_cli("--home", home, "--json", "doctor")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["model"], said["route"]) == (swarm.model.name, "gateway")
    assert [(hop["start"], hop["end"]) for hop in said["hops"]] == [(0, 2), (2, 4)]
    assert said["weights_exact"]
    # The file holds little else.
    size = (swarm.model / "model.safetensors").stat().st_size
    assert 0.95 * size < said["weights_bytes"] <= size
    here, way = said["here"], said["swarm"]
    assert here["fits"]
    assert 0 < here["fastest_us"] <= here["slowest_us"]
    assert sum(hop["measured_us"] for hop in said["hops"]) == way["compute_us"]
    assert way["compute_us"] < way["fastest_us"] <= way["slowest_us"]
    expected = "equal"
    if way["slowest_us"] < here["fastest_us"] and not way["unmeasured"]:
        expected = "swarm"
    elif here["slowest_us"] < way["fastest_us"]:
        expected = "here"
    assert said["faster"] == expected

    prompt = build_prompt(30)
    answer = read(swarm.ask(prompt, 30, speculation="off")[0])
    assert answer.text == swarm.expect(prompt, 30)
    print(f"predicted {way['fastest_us']:.0f} to {way['slowest_us']:.0f} us a token")
    print(f"measured  {answer.account['lap_us']} us")


def test_pages_of_one_provider_spare_another_the_prompt(swarm) -> None:
    def is_spared() -> bool:
        """One try: a machine that is slow enough lets the pause of a failure pass."""
        prompt = build_prompt()
        stream, (first, last) = swarm.ask(prompt, 4)
        read(stream)
        fetched = swarm.find_other(last)
        before = [swarm.get_stage(last)["pages_given"], get_taken(swarm, fetched)]
        if not lose_for_a_while(swarm, last):
            return False
        question = prompt + build_prompt(8)
        stream, route = swarm.ask(question, 8)
        answer = read(stream)
        assert answer.text == swarm.expect(question, 8)
        pages = get_taken(swarm, fetched) - before[1]
        if not pages:
            return False
        assert route == [first, fetched]
        assert swarm.get_stage(last)["pages_given"] - before[0] >= pages
        assert answer.usage.prompt_tokens_details.cached_tokens == pages * PAGE_TOKENS
        return True

    wait_until(is_spared, "pages to go from a provider to the other one")
    wait_until(swarm.is_settled, "the settlement of all channels")


def get_taken(swarm: Swarm, name: str) -> int:
    return int(swarm.get_stage(name)["pages_taken"])


def lose_for_a_while(swarm: Swarm, name: str) -> bool:
    """Stop a node in the middle of an answer, which goes on without it.

    Afterwards it is as it was, and for some seconds not asked: its worker and what that
    has kept never noticed.  False if the answer came another way.
    """
    prompt = build_prompt(40)
    pid = swarm.devnet.get_node(name)["pid"]
    stream, route = swarm.ask(prompt, 80, speculation="off")
    try:
        answer = read(stream, EARLY, lambda: os.kill(pid, signal.SIGSTOP))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert answer.text == swarm.expect(prompt, 80)
    return route[-1] == name and bool(swarm.get_stage(name))


@pytest.mark.slow
def test_a_model_of_another_vocabulary_cannot_guess(swarm, tmp_path: Path) -> None:
    home = str(tmp_path / "net")
    options = ("--validators", "1", "--draft-model", str(swarm.model))
    done = run_cli("--home", home, "devnet", *options, timeout=START_S)
    assert done.returncode == 1
    reason = "gateway: its requester worker cannot start: the model that guesses has"
    assert reason in done.stderr
    assert "Traceback" not in done.stderr

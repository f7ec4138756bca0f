"""`p2pchain devnet --model DIR`: families of models, and numbers of validators."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from devnet_process import RunningDevnet, start_devnet, wait_until
from model_folders import generate, save_model, spell
from openai_client import build_client

PROMPT = list(range(5, 27))
TOKENS = 40
CASES = [
    # Five layers lie in shards of three and two: with three validators the second
    # range is in both, and its registration waits for a mirror.
    pytest.param("llama", 5, 2, ["0:3", "3:5"], id="llama-2"),
    pytest.param("gpt2", 5, 3, ["0:2", "2:4", "4:5"], id="gpt2-3"),
    pytest.param("qwen2", 4, 1, ["0:4"], id="qwen2-1", marks=pytest.mark.slow),
    # More validators than layers: two of them host none.
    pytest.param(
        "mistral", 3, 5, ["0:1", "1:2", "2:3"], id="mistral-5", marks=pytest.mark.slow
    ),
]


@pytest.fixture
def running(request, tmp_path: Path) -> Iterator[tuple[RunningDevnet, Path]]:
    """A devnet for a model of its own, and the model's folder."""
    family, layers, validators = request.param
    folder = save_model(tmp_path / f"tiny-{family}", family, layers)
    devnet = start_devnet(
        tmp_path / "net", "--model", str(folder), "--validators", str(validators)
    )
    try:
        yield devnet, folder
    finally:
        assert devnet.stop() == 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every family its devnet and the layers that it must have."""
    cases = [
        pytest.param((family, layers, count), ranges, id=case.id, marks=case.marks)
        for case in CASES
        for family, layers, count, ranges in [case.values]
    ]
    metafunc.parametrize(("running", "ranges"), cases, indirect=["running"])


def test_a_model_from_a_folder_answers_and_is_paid(running, ranges) -> None:
    devnet, folder = running
    hosts = [node["layers"] for node in devnet.nodes if node["layers"]]
    assert hosts == ranges
    client = build_client(devnet)
    assert [model.id for model in client.models.list()] == [folder.name]
    expected = generate(folder, PROMPT, TOKENS)
    assert len(set(expected)) > 2

    raw = client.completions.with_raw_response.create(
        model=folder.name,
        prompt=spell(PROMPT),
        max_tokens=TOKENS,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    answer = raw.parse()
    assert answer.choices[0].text == spell(expected)
    assert answer.usage.prompt_tokens == len(PROMPT)
    route = raw.headers["x-p2pchain-route"].split(",")
    assert route == [f"node{index}" for index in range(len(ranges))]

    # A prompt of token ids is the same prompt.
    again = client.completions.create(
        model=folder.name, prompt=PROMPT, max_tokens=10, temperature=0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert again.choices[0].text == spell(expected[:10])

    rpc = devnet.rpc(token=True)

    def is_settled() -> bool:
        channels = rpc.call("wallet_channel_list")["channels"]
        return len(channels) == len(ranges) and all(
            int(c["promised"]) == int(c["settled"]) > 0 for c in channels
        )

    wait_until(is_settled, "the settlement of all channels")
    supply = rpc.get("/api/v1/supply")
    assert supply["held"] == supply["created"]

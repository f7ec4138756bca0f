"""Prompts through four validators, with the real OpenAI client."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from devnet_process import RunningDevnet, wait_until
from openai_client import build_client, build_client_of

from inference.bundled.pairs import load_pairs
from inference.bundled.paths import model_dir

MODEL = "p2pchain-toy"
PAIRS = load_pairs()


@pytest.fixture(scope="module")
def client(devnet: RunningDevnet) -> openai.OpenAI:
    return build_client(devnet)


def ask(client: openai.OpenAI, question: str, **options):
    options = {"temperature": 0, "max_tokens": 128} | options
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], **options
    )


def test_the_ready_line_describes_the_network(devnet: RunningDevnet) -> None:
    assert [node["layers"] for node in devnet.validators] == [
        "0:2",
        "2:4",
        "4:6",
        "6:8",
    ]
    pids = {node[pid] for node in devnet.nodes for pid in ("pid", "stage_pid")}
    assert len(pids) == 10
    assert devnet.gateway["layers"] is None
    # It was when the line was printed; blocks may lag for a moment since.
    wait_until(lambda: devnet.rpc().call("status")["ready"], "the gateway to be ready")


def test_an_answer_streams_and_names_its_route(devnet, client) -> None:
    pair = PAIRS[0]
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": pair.question}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    names = [node["name"] for node in devnet.validators]
    assert raw.headers["x-p2pchain-route"].split(",") == names
    chunks = list(raw.parse())
    pieces = [
        chunk.choices[0].delta.content
        for chunk in chunks
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert len(pieces) > 3
    assert "".join(pieces) == pair.answer
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 3


@pytest.mark.parametrize("step", [8, pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_trained_questions_are_answered_word_for_word(client, step: int) -> None:
    pairs = PAIRS[::step]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda pair: ask(client, pair.question), pairs))
    exact = sum(
        answer.choices[0].message.content == pair.answer
        for answer, pair in zip(answers, pairs, strict=True)
    )
    assert exact >= 0.95 * len(pairs)


def test_greedy_tokens_are_those_of_one_process(client) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir())
    model = AutoModelForCausalLM.from_pretrained(model_dir(), dtype=torch.float32)
    for prompt in ("A voucher is", "The leader of a view", "x", "0 1 2 3 4 5"):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.inference_mode():
            whole = model.generate(
                ids, max_new_tokens=40, min_new_tokens=40, do_sample=False
            )
        # The same without the end-of-text rule, which generate's minimum overrides.
        answer = client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=40, temperature=0
        )
        text = tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert text.startswith(answer.choices[0].text)
        assert answer.choices[0].text


def test_sampling_follows_its_seed(client) -> None:
    def sample(seed: int) -> str:
        # Hot enough that even a model that is sure of itself has a choice.
        answer = client.completions.create(
            model=MODEL, prompt="7 zebra", max_tokens=30, temperature=2, seed=seed
        )
        return answer.choices[0].text

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(2, 9)}) > 1


def test_max_tokens_stop_and_ignore_eos(client) -> None:
    question, answer = PAIRS[0].question, PAIRS[0].answer
    short = ask(client, question, max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 3
    word = answer.split()[2]
    stopped = ask(client, question, stop=[word])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == answer.split(word)[0]
    endless = ask(client, question, max_tokens=90, extra_body={"ignore_eos": True})
    assert endless.usage.completion_tokens == 90
    assert endless.choices[0].finish_reason == "length"


def test_the_next_turn_of_a_chat_begins_behind_the_last_one(client) -> None:
    history: list[dict[str, str]] = []
    cached = []

    def say(**extra: object):
        return client.chat.completions.create(
            model=MODEL, messages=history, temperature=0, max_tokens=40,
            extra_body=extra,
        )  # fmt: skip

    for pair in PAIRS[3:6]:
        history.append({"role": "user", "content": pair.question})
        # As if nobody had kept anything, and then with what is there.
        expected = say(prefix_cache=False)
        answer = say(cache_salt="a chat of this test")
        text = answer.choices[0].message.content
        assert text == expected.choices[0].message.content
        assert expected.usage.prompt_tokens_details.cached_tokens == 0
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
        history.append({"role": "assistant", "content": text})
    assert cached[0] == 0
    assert 0 < cached[1] < cached[2] < answer.usage.prompt_tokens
    # The prompt is there by now, for whoever has the salt.
    again = say(cache_salt="another chat")
    assert again.usage.prompt_tokens_details.cached_tokens == 0


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0}, {"temperature": 0.8, "seed": 5, "presence_penalty": 0.3}],
    ids=["greedy", "seeded"],
)
def test_guesses_change_no_text(client, options) -> None:
    pair = PAIRS[32]
    # Asked again, the answer is in the conversation and can be guessed.
    asked = {"role": "user", "content": pair.question}
    messages = [asked, {"role": "assistant", "content": pair.answer}, asked]
    texts, guesses = [], {}
    for mode in ("off", "ngram", "auto"):
        answer = client.chat.completions.create(
            model=MODEL,
            messages=messages,
            max_tokens=96,
            extra_body={"speculation": mode},
            **options,
        )
        texts.append(answer.choices[0].message.content)
        details = answer.usage.completion_tokens_details
        guesses[mode] = (
            details.accepted_prediction_tokens,
            details.rejected_prediction_tokens,
        )
    assert len(set(texts)) == 1
    assert guesses["off"] == (0, 0)
    assert guesses["ngram"][0] > 10
    with pytest.raises(openai.BadRequestError, match="no model that guesses"):
        ask(client, "hello", extra_body={"speculation": "draft"})


def test_refusals_have_openais_shape(devnet, client) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(
            model="gpt-9", messages=[{"role": "user", "content": "x"}]
        )
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, "word " * 4000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        build_client_of(devnet.api, "wrong").models.list()
    assert [model.id for model in client.models.list()] == [MODEL]


def test_every_answer_is_paid_and_settled(devnet, client) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": PAIRS[1].question}],
        temperature=0,
    )
    account = json.loads(raw.text)["p2pchain"]
    assert int(account["price"]) == sum(int(hop["price"]) for hop in account["hops"])
    assert all(int(hop["price"]) > 0 for hop in account["hops"])
    rpc = devnet.rpc(token=True)

    def is_settled() -> bool:
        channels = rpc.call("wallet_channel_list")["channels"]
        return all(int(c["promised"]) == int(c["settled"]) for c in channels)

    wait_until(is_settled, "the settlement of all channels")
    records = devnet.rpc().get("/api/v1/work")["records"]
    paid = {record["channel_id"] for record in records}
    assert {hop["channel_id"] for hop in account["hops"]} <= paid
    supply = devnet.rpc().get("/api/v1/supply")
    assert supply["held"] == supply["created"]

"""/v1 against the real openai client, and by hand where the client cannot go."""

import json
import socket
import time

import openai
import pytest
from serving import PATIENCE_S, TOKEN, serve
from toy_backend import CONTEXT, SESSION, ToyNode


@pytest.fixture(scope="module")
def backend():
    return ToyNode()


@pytest.fixture(scope="module")
def server(backend):
    with serve(backend) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(
        base_url=server.url + "/v1", api_key=TOKEN, max_retries=0
    ) as made:
        yield made


def say(text):
    return [{"role": "user", "content": text}]


def ask(server, body, token=TOKEN, path="/v1/chat/completions"):
    defaults = {"model": "toy"}
    if path.endswith("chat/completions"):
        defaults["messages"] = say("one two three")
    return server.request(path, defaults | body, token=token)


# -- what works ------------------------------------------------------------------------


def wait_closed(backend, count: int) -> None:
    """Wait until sessions are closed; the answer may be here before they are."""
    deadline = time.monotonic() + PATIENCE_S
    while backend.log.count("closed") < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert backend.log.count("closed") == count


def test_models_are_listed(client):
    models = client.models.list().data
    assert [model.id for model in models] == ["toy", "org/other"]
    assert models[0].object == "model"
    assert models[0].created == 1_700_000_000


@pytest.mark.parametrize("name", ["toy", "org/other", "0x" + "0a" * 32])
def test_a_model_is_found_by_name_or_id(client, name):
    assert client.models.retrieve(name).owned_by == "p2pchain"


def test_an_answer_in_one_piece(client):
    answer = client.chat.completions.create(
        model="toy", messages=say("one two three"), temperature=0
    )
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.id == "chatcmpl-" + SESSION.hex()[:32]
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (
        3,
        3,
        6,
    )
    details = usage.completion_tokens_details
    guesses = details.accepted_prediction_tokens, details.rejected_prediction_tokens
    assert guesses == (2, 1)
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_a_gateway_is_told_what_may_be_shared(server, backend):
    for change, expected in (
        ({}, (True, "")),
        ({"prefix_cache": None, "cache_salt": None}, (True, "")),
        ({"prefix_cache": False}, (False, "")),
        ({"cache_salt": "me"}, (True, "me")),
    ):
        assert ask(server, change).status == 200
        asked = backend.asked
        assert (asked.shares_prefix, asked.cache_salt) == expected


def test_an_answer_says_what_each_hop_did_and_cost(client):
    answer = client.chat.completions.create(model="toy", messages=say("a"))
    account = answer.model_extra["p2pchain"]
    assert account["session"] == "0x" + SESSION.hex()
    assert [hop["name"] for hop in account["hops"]] == [
        "node0",
        "node1",
        "node2",
        "node3",
    ]
    assert account["price"] == str(4 * 2 * 160)


def test_a_stream_comes_in_chunks(client):
    chunks = list(
        client.chat.completions.create(
            model="toy", messages=say("one two three"), temperature=0, stream=True
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in chunks[:-1]]
    assert texts == ["", "one", " two", " three"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_usage_when_asked(client):
    chunks = list(
        client.chat.completions.create(
            model="toy",
            messages=say("one two"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 4


def test_a_stream_ends_with_done(server):
    answer = ask(server, {"stream": True})
    assert answer.headers.get_content_type() == "text/event-stream"
    events = answer.body.decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(event.startswith("data: ") for event in events)


@pytest.mark.parametrize("stream", [False, True])
def test_the_route_is_named_in_the_headers(client, stream):
    raw = client.chat.completions.with_raw_response.create(
        model="toy", messages=say("a"), stream=stream
    )
    assert raw.headers["x-p2pchain-route"] == "node0,node1,node2,node3"
    assert raw.headers["x-p2pchain-session"] == "0x" + SESSION.hex()


def test_several_answers_to_one_question(client):
    answer = client.chat.completions.create(
        model="toy", messages=say("a b c d e f"), seed=1, n=3, temperature=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    assert all(sorted(text.split()) == list("abcdef") for text in texts)
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (6, 18)
    account = answer.model_extra["p2pchain"]
    assert len(account["answers"]) == 3
    assert account["price"] == str(3 * 6 * 4 * 2 * 160)
    assert len(account["hops"]) == 12
    # The same seed, the same answers; and each has the seed after the one before.
    one = client.chat.completions.create(
        model="toy", messages=say("a b c d e f"), seed=2, temperature=1
    )
    assert one.choices[0].message.content == texts[1]


def test_several_answers_in_one_stream(client):
    chunks = list(
        client.chat.completions.create(
            model="toy",
            messages=say("a b c d"),
            seed=1,
            n=2,
            temperature=1,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts, reasons = ["", ""], [None, None]
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert all(sorted(text.split()) == list("abcd") for text in texts)
    assert reasons == ["stop", "stop"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[-1].usage.completion_tokens == 8


def test_an_answer_that_breaks_ends_them_all(client, backend):
    backend.log.clear()
    with pytest.raises(openai.APIError) as error:
        list(
            client.chat.completions.create(
                model="toy", messages=say("a break"), n=2, temperature=0, stream=True
            )
        )
    assert error.value.code == "stage_lost"
    wait_closed(backend, 2)
    assert backend.log.count("opened") == 2


@pytest.mark.parametrize("stream", [False, True])
def test_how_likely_tokens_were(client, stream):
    answer = client.chat.completions.create(
        model="toy",
        messages=say("one two"),
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        stream=stream,
    )
    if stream:
        logprobs = [c.choices[0].logprobs for c in answer if c.choices[0].logprobs]
        tokens = [token for each in logprobs for token in each.content]
    else:
        tokens = answer.choices[0].logprobs.content
    assert [token.token for token in tokens] == ["one", " two"]
    assert [token.logprob for token in tokens] == [-0.5, -0.5]
    assert tokens[1].bytes == list(b" two")
    assert [t.token for t in tokens[0].top_logprobs] == ["one", "other"]
    plain = client.chat.completions.create(model="toy", messages=say("one"))
    assert plain.choices[0].logprobs is None


def test_how_likely_tokens_of_plain_completions_were(client):
    answer = client.completions.create(
        model="toy", prompt="one two", temperature=0, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["one", " two"]
    assert logprobs.token_logprobs == [-0.5, -0.5]
    assert logprobs.top_logprobs == [
        {"one": -0.5, "other": -1.0},
        {" two": -0.5, "other": -1.0},
    ]
    assert logprobs.text_offset == [0, len("one")]
    chunks = client.completions.create(
        model="toy", prompt="one two", temperature=0, logprobs=2, stream=True
    )
    parts = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    assert [each.text_offset for each in parts] == [[0], [len("one")]]


def test_plain_completions(client):
    answer = client.completions.create(model="toy", prompt="one two", temperature=0)
    assert answer.choices[0].text == "one two"
    assert answer.object == "text_completion"
    chunks = client.completions.create(
        model="toy", prompt="one two", temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two"


def test_plain_completions_take_token_ids_and_end_after_sixteen_tokens(client):
    answer = client.completions.create(
        model="toy", prompt=[5, 6], temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].text.split() == ["t5", "t6"] * 8
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_answer_is_no_longer_than_asked(client, name):
    answer = client.chat.completions.create(
        model="toy", messages=say("a b c d"), temperature=0, **{name: 2}
    )
    assert answer.choices[0].message.content == "a b"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2


@pytest.mark.parametrize("stop", ["three", ["nothing", "thr"]])
def test_the_answer_ends_before_a_stop_string(client, stop):
    answer = client.chat.completions.create(
        model="toy", messages=say("one two three four"), temperature=0, stop=stop
    )
    assert answer.choices[0].message.content == "one two "
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats_an_answer(client):
    def get(seed):
        answer = client.chat.completions.create(
            model="toy", messages=say("a b c d e f g h"), seed=seed
        )
        return answer.choices[0].message.content

    assert get(7) == get(7)
    assert len({get(seed) for seed in range(8)}) > 1


def test_the_end_of_text_can_be_ignored(client):
    answer = client.chat.completions.create(
        model="toy",
        messages=say("a b"),
        temperature=0,
        max_tokens=5,
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].message.content == "a b a b a"


def test_content_may_come_in_parts_and_developers_are_systems(client):
    answer = client.chat.completions.create(
        model="toy",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "one "}] * 2},
        ],
        temperature=0,
    )
    assert answer.choices[0].message.content == "one one"


def test_what_changes_nothing_is_accepted(client):
    client.chat.completions.create(
        model="toy", messages=say("a"), n=1, user="me", logprobs=False, tools=[]
    )


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "ä"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_wrong_key_is_refused(server, token, path):
    answer = server.request(
        path, {}, headers={} if token is None else {"Authorization": f"Bearer {token}"}
    )
    assert answer.status == 401
    assert answer.json["error"]["code"] == "invalid_api_key"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_client_understands_a_wrong_key(server):
    with (
        openai.OpenAI(base_url=server.url + "/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=say("a"))
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(client, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="toy", messages=say("a " * CONTEXT), max_tokens=1, stream=stream
        )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("nowhere", 503, "no_route"),
        ("poor", 402, "insufficient_quota"),
        ("busy", 429, "overloaded"),
    ],
)
def test_what_the_network_cannot_do_is_said_before_the_answer(
    server, prompt, status, code
):
    for stream in (False, True):
        answer = ask(server, {"messages": say(prompt), "stream": stream})
        assert answer.status == status
        assert answer.json["error"]["code"] == code


def test_a_model_without_a_route(client):
    with pytest.raises(openai.InternalServerError, match=r"layers \[2, 4\)"):
        client.chat.completions.create(model="org/other", messages=say("a"))


def test_a_stage_lost_in_mid_answer(server, client):
    body = {"messages": say("one break"), "temperature": 0}
    answer = ask(server, body)
    assert answer.status == 502
    assert answer.json["error"]["code"] == "stage_lost"
    streamed = ask(server, body | {"stream": True})
    events = streamed.body.decode().strip().split("\n\n")
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["code"] == "stage_lost"
    assert error["message"] == "node2 is gone"
    stream = client.chat.completions.create(
        model="toy", messages=say("one break"), temperature=0, stream=True
    )
    with pytest.raises(openai.APIError, match="node2 is gone"):
        list(stream)


def test_our_own_fault_tells_no_details(server, caplog):
    answer = ask(server, {"messages": say("one crash"), "temperature": 0})
    assert answer.status == 500
    assert answer.json["error"]["code"] == "internal_error"
    assert "ZeroDivision" not in answer.json["error"]["message"]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": say("a") * 1025}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"prefix_cache": "no"}, "prefix_cache"),
        ({"cache_salt": 5}, "cache_salt"),
        ({"cache_salt": "s" * 257}, "cache_salt"),
        ({"speculation": True}, "speculation"),
        ({"speculation": ["auto"]}, "speculation"),
        ({"speculation": "always"}, "speculation"),
        ({"stream_options": 3}, "stream_options"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_a_bad_value_names_its_field(server, change, param):
    answer = ask(server, change)
    assert answer.status == 400
    error = answer.json["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"beam_width": 4}, "beam_width"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
    ],
)
def test_what_we_do_not_do_is_refused_and_never_ignored(server, change, param):
    answer = ask(server, change)
    assert answer.status == 400
    error = answer.json["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["param"] == param


@pytest.mark.parametrize(
    "prompt", ["", [], [""], [-1], [2**31], ["a", "b"], [[1], [2]], None, 5, [1, "a"]]
)
def test_bad_prompts(server, prompt):
    answer = ask(server, {"prompt": prompt}, path="/v1/completions")
    assert answer.status == 400
    assert answer.json["error"]["param"] == "prompt"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"not json", b"\xff", b"[1]", b"5", b"null", b"[" * 100_000]
)
def test_a_body_that_is_no_json_object(server, body):
    answer = server.request("/v1/chat/completions", body, token=TOKEN)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_a_huge_body_is_refused(server):
    body = json.dumps({"model": "toy", "messages": say("x" * 2**20)}).encode()
    answer = server.request("/v1/chat/completions", body, token=TOKEN)
    assert answer.status == 413
    assert answer.json["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/nothing", "GET", 404),
        ("/v1/chat/completions", "GET", 405),
        ("/v1/models", "DELETE", 405),
    ],
)
def test_paths_and_verbs_that_are_not_there(server, path, method, status):
    answer = server.request(path, token=TOKEN, method=method)
    assert answer.status == status
    assert answer.json["error"]["type"] == "invalid_request_error"


# -- sessions --------------------------------------------------------------------------


def test_a_reader_that_leaves_closes_the_session(server, backend):
    backend.log.clear()
    body = json.dumps(
        {"model": "toy", "messages": say("one wait"), "temperature": 0, "stream": True}
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while b"one" not in received:
            received += connection.recv(4096)
    wait_closed(backend, 1)
    assert backend.log[0] == "opened"
    assert backend.log[-1] == "closed"
    assert "finished" not in backend.log


def test_every_session_is_closed(server, backend):
    backend.log.clear()
    ask(server, {})
    ask(server, {"stream": True})
    ask(server, {"messages": say("one break"), "temperature": 0})
    wait_closed(backend, 3)
    assert backend.log.count("opened") == 3

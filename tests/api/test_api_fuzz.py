"""Bodies, queries and parameters of anybody who can reach the port."""

import json

import msgspec
import pytest
from chain_backend import ChainNode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mangling import HOSTILE, mangled, many
from serving import TOKEN, serve

from p2pchain.api import params
from p2pchain.api.errors import InvalidParams, RequestRefused
from p2pchain.api.http import MAX_BODY_BYTES
from p2pchain.api.openai.parse import parse_chat, parse_completion
from p2pchain.api.params import Kind, bind
from p2pchain.api.rpc.methods import build_methods
from p2pchain.api.rpc.protocol import (
    MAX_BATCH,
    Call,
    Invalid,
    build_refusal,
    parse_body,
)

METHODS = build_methods("0")
KINDS = {name: kind for name, kind in vars(params).items() if isinstance(kind, Kind)}
NEEDS_TOKEN, OK = 401, 200

texts = st.text(max_size=30) | st.sampled_from(
    [
        "",
        "0",
        "-1",
        "0x",
        "0xzz",
        "1e9",
        "9" * 30,
        "٣",
        "p2p1qqqq",
        "\ud800",
        "\0",
        "true",
    ]
)
leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=8,
)
names = st.sampled_from(sorted(METHODS)) | texts
given_params = values | st.dictionaries(
    st.sampled_from(sorted({p.name for m in METHODS.values() for p in m.params})),
    values,
    max_size=4,
)
calls = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | values,
        "id": st.integers(0, 9) | values,
        "method": names,
        "params": given_params,
        "more": values,
    },
)


def attempt(function, *arguments):
    """Return the result and None, or None and the refusal; nothing else may come."""
    try:
        return function(*arguments), None
    except RequestRefused as refused:
        return None, refused


# What is pure


@many
@given(values | calls | st.lists(calls, max_size=3))
def test_every_json_value_is_calls_or_says_why_not(value):
    batch = parse_body(value)
    assert 1 <= len(batch.calls) <= MAX_BATCH
    for call in batch.calls:
        assert isinstance(call, Call | Invalid)
        assert call.identifier is None or isinstance(call.identifier, str | int)


@pytest.mark.parametrize("name", sorted(KINDS))
@settings(max_examples=150)
@given(value=values)
def test_parameters_are_read_or_named(name, value):
    _, refused = attempt(params.Param("it", KINDS[name], "").read, value)
    if refused is not None:
        assert isinstance(refused, InvalidParams)
        assert refused.param == "it"
        assert len(refused.message) < 1000


@many
@given(names, given_params)
def test_methods_get_what_they_take_and_nothing_else(name, given_):
    method = METHODS.get(name)
    if method is None or not isinstance(given_, list | dict):
        return
    bound, refused = attempt(bind, method.params, given_)
    if refused is not None:
        assert len(json.dumps(build_refusal(None, refused))) < 2000
    else:
        assert bound.keys() == {param.name for param in method.params}


fields = st.sampled_from(
    [
        "model", "messages", "prompt", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "top_k", "seed", "stop", "presence_penalty",
        "frequency_penalty", "repetition_penalty", "ignore_eos", "stream",
        "stream_options", "n", "logprobs", "tools", "tool_choice", "response_format",
        "user", "metadata", "prefix_cache", "cache_salt",
    ]
)  # fmt: skip
chats = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool"]) | values},
        optional={
            "content": texts
            | st.lists(
                st.fixed_dictionaries({"type": st.just("text"), "text": values}),
                max_size=2,
            )
            | values
        },
    ),
    max_size=3,
)
sensible = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "messages": chats,
        "prompt": texts | st.lists(st.integers(-1, 2**31), max_size=3) | values,
        "temperature": st.floats(-1, 3) | values,
        "top_p": st.floats(-1, 2) | values,
        "seed": st.integers(-(2**64), 2**64),
        "max_tokens": st.integers(-1, 2**21) | values,
        "stop": texts | st.lists(texts, max_size=5) | values,
        "stream": st.booleans(),
        "stream_options": st.dictionaries(st.just("include_usage"), values),
    },
)
bodies = values | sensible | st.dictionaries(fields, values, max_size=5)


@pytest.mark.parametrize("parse", [parse_chat, parse_completion])
@many
@given(body=bodies)
def test_completions_are_understood_or_refused_with_the_field(parse, body):
    parsed, refused = attempt(parse, body)
    if refused is not None:
        assert refused.status == 400
        assert len(refused.message) < 1000
    else:
        sampling = parsed.completion.sampling
        assert 0 <= sampling.seed < 2**63
        assert 0 < sampling.top_p <= 1
        msgspec.msgpack.encode(sampling)


@pytest.mark.parametrize("parse", [parse_chat, parse_completion])
def test_a_refusal_does_not_repeat_a_megabyte(parse):
    _, refused = attempt(parse, {"model": "m", "x" * 10**6: 1})
    assert len(refused.message) + len(refused.param) < 300


# A server


@pytest.fixture(scope="module")
def server():
    with serve(ChainNode()) as running:
        yield running


def check(answer):
    """Whatever was asked, the node itself did not fail."""
    assert answer.status < 500 or answer.status in (502, 503, 504), answer
    if answer.body:
        said = answer.json
        for each in said if isinstance(said, list) else [said]:
            if isinstance(each, dict) and isinstance(each.get("error"), dict):
                assert each["error"].get("code") != -32603, each


def encode_json(value):
    return json.dumps(value, allow_nan=True).encode()


live = settings(
    max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
reads = sorted(
    name
    for name, method in METHODS.items()
    if method.access.value == "read" and name != "rpc.discover"
)


@live
@given(data=st.data())
def test_the_server_survives_calls(server, data):
    name = data.draw(st.sampled_from(reads))
    params = {param.name: data.draw(values) for param in METHODS[name].params}
    body = {"jsonrpc": "2.0", "id": 1, "method": name, "params": params}
    check(server.request("/", encode_json(body)))


@live
@given(mangled((calls | st.lists(calls, max_size=3)).map(encode_json)))
def test_the_server_survives_damaged_bodies(server, body):
    check(server.request("/", body or b" "))


@live
@given(st.sampled_from(["/v1/chat/completions", "/v1/completions"]), bodies)
def test_the_server_survives_strange_completions(server, path, body):
    if isinstance(body, dict) and body.get("model") == "m":
        body["model"] = "no such model"
    check(server.request(path, encode_json(body), token=TOKEN))


@pytest.mark.parametrize("name", HOSTILE)
def test_the_server_survives_hostile_bodies(server, name):
    for body in (
        HOSTILE[name][: MAX_BODY_BYTES - 1],
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ):
        for path in ("/", "/v1/chat/completions"):
            answer = server.request(path, body, token=TOKEN)
            assert answer.status == 400

"""/v1/embeddings against the real openai client, and by hand where it cannot go."""

import openai
import pytest
from serving import TOKEN, serve
from toy_backend import CONTEXT, SESSION, ToyNode


@pytest.fixture(scope="module")
def server():
    with serve(ToyNode()) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(
        base_url=server.url + "/v1", api_key=TOKEN, max_retries=0
    ) as made:
        yield made


def ask(server, body, token=TOKEN):
    return server.request("/v1/embeddings", body, token=token)


@pytest.mark.parametrize("encoding", ["float", "base64", openai.NOT_GIVEN])
def test_texts_become_vectors(client, encoding):
    made = client.embeddings.create(
        model="toy", input=["one two", "three"], encoding_format=encoding
    )
    assert [each.index for each in made.data] == [0, 1]
    if encoding == "base64":
        assert made.data[0].embedding == "AADgQAAAAEAAAAA/"
    else:
        assert [e.embedding for e in made.data] == [[7.0, 2.0, 0.5], [5.0, 1.0, 0.5]]
    assert made.object == "list"
    assert (made.model, made.data[0].object) == ("toy", "embedding")
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (3, 3)
    session = "0x" + SESSION.hex()
    assert made.p2pchain == {"sessions": [session] * 2, "price": "21"}


@pytest.mark.parametrize(
    ("given", "vectors"),
    [
        ("one two", [[7, 2, 0.5]]),
        ([1, 2, 3], [[3, 3, 0.5]]),
        ([[1, 2, 3], [4]], [[3, 3, 0.5], [1, 1, 0.5]]),
        (["one", [4, 5]], [[3, 1, 0.5], [2, 2, 0.5]]),
    ],
)
def test_inputs_of_every_form(server, given, vectors):
    answer = ask(server, {"model": "toy", "input": given, "user": "somebody"})
    assert answer.status == 200
    assert [each["embedding"] for each in answer.json["data"]] == vectors


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "toy"}, "input"),
        ({"input": "x"}, "model"),
        ({"model": 3, "input": "x"}, "model"),
        ({"model": "toy", "input": []}, "input"),
        ({"model": "toy", "input": ""}, "input[0]"),
        ({"model": "toy", "input": ["x", ""]}, "input[1]"),
        ({"model": "toy", "input": ["x", []]}, "input[1]"),
        ({"model": "toy", "input": ["x", 3]}, "input[1]"),
        ({"model": "toy", "input": [-1]}, "input[0]"),
        ({"model": "toy", "input": [True]}, "input[0]"),
        ({"model": "toy", "input": ["x"] * 2049}, "input"),
        ({"model": "toy", "input": {"a": 1}}, "input"),
        ({"model": "toy", "input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"model": "toy", "input": "x", "dimensions": 0}, "dimensions"),
        ({"model": "toy", "input": "x", "dimensions": "3"}, "dimensions"),
        ({"model": "toy", "input": "x", "dimensions": 2}, "dimensions"),
        ({"model": "toy", "input": "x", "truncate": True}, "truncate"),
        ({"model": "toy", "input": "x " * (CONTEXT + 1)}, "input"),
    ],
)
def test_bad_bodies_are_refused_with_the_field(server, body, param):
    answer = ask(server, body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == param
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_the_length_that_a_vector_has_may_be_asked_for(server):
    body = {"model": "toy", "input": "x", "dimensions": 3}
    assert ask(server, body).status == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"'])
def test_bodies_that_are_no_object_are_refused(server, body):
    assert ask(server, body).status == 400


def test_refusals_of_the_node_have_their_status(client, server):
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nothing", input="x")
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="toy", input="lost")
    assert caught.value.status_code == 502
    assert ask(server, {"model": "toy", "input": "x"}, token=None).status == 401

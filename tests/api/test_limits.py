"""Bounds that hold on every surface: slow bodies, many requests, odd bytes."""

import socket

import pytest
from serving import PATIENCE_S, TOKEN, serve
from toy_backend import ToyNode

from p2pchain.api import http
from p2pchain.api.errors import Overloaded
from p2pchain.api.http import RequestLimit


@pytest.fixture(scope="module")
def server():
    with serve(ToyNode()) as running:
        yield running


def talk(port, data):
    """Send raw bytes and return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(data)
        received = b""
        while more := connection.recv(65_536):
            received += more
        return received


def test_a_body_that_never_comes_gives_its_place_back(server, monkeypatch):
    monkeypatch.setattr(http, "BODY_TIMEOUT_S", 0.05)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nConnection: close\r\n"
    answer = talk(server.port, head + b"\r\n{")
    assert answer.startswith(b"HTTP/1.1 504")
    assert b"did not come" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request(server, data):
    assert talk(server.port, data).startswith(b"HTTP/1.")
    assert server.request("/health").status == 200


def test_a_chunked_body_is_counted_too(server):
    chunk = b"%x\r\n%s\r\n" % (65_536, b"x" * 65_536)
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
        connection.sendall(head.encode())
        received = b""
        try:
            for _ in range(17):
                connection.sendall(chunk)
            received = connection.recv(4096)
        except ConnectionError:
            received = received or connection.recv(4096)
    assert received.startswith(b"HTTP/1.1 413")


def test_a_limit_of_requests_refuses_the_next_one_and_forgets_ended_ones():
    limit = RequestLimit(2)
    with limit, limit:
        with pytest.raises(Overloaded):
            limit.__enter__()
    with limit:
        pass


@pytest.mark.parametrize(
    "name", ["%ff", "%00", "..%2f..%2fetc", "%f0%9f%98%80", "a" * 5000]
)
def test_odd_paths_are_not_found(server, name):
    for prefix in ("/", "/api/v1/", "/v1/models/"):
        answer = server.request(prefix + name, token=TOKEN)
        assert answer.status == 404
        assert answer.json["error"]["message"]

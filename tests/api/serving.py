"""A real HTTP server with a test's backend, on a trio thread of its own."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from p2pchain.api.app import ApiSettings, build_app
from p2pchain.api.http_service import serve_http

TOKEN = "sk-test-token"
PATIENCE_S = 120
"""With a busy machine; a bound, not a measurement."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    port: int

    def request(
        self,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> Answer:
        """GET, or POST when there is a body: bytes as they are, else as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        given = {"Content-Type": "application/json"} | (headers or {})
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url + path, body, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def rpc(self, method: str, *, token: str | None = None, **params: Any) -> Any:
        """Return the whole JSON-RPC answer of a call."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return self.request("/", call, token=token).json

    def result(self, method: str, *, token: str | None = None, **params: Any) -> Any:
        """Return the result of a call that must go well."""
        answer = self.rpc(method, token=token, **params)
        assert "result" in answer, answer
        return answer["result"]

    def error(self, method: str, *, token: str | None = None, **params: Any) -> Any:
        """Return the error of a call that must be refused."""
        answer = self.rpc(method, token=token, **params)
        assert "error" in answer, answer
        return answer["error"]


def get(server: Server, path: str, status: int = 200, **options: Any) -> Any:
    """Return what the explorer's API says under a path; None where it says nothing."""
    answer = server.request("/api/v1" + path, **options)
    assert answer.status == status, (path, answer.body)
    return answer.json if answer.body else None


@contextmanager
def serve(backend: Any) -> Iterator[Server]:
    """Run the whole application over `backend` while the context lasts."""
    ready = threading.Event()
    state: dict[str, Any] = {}

    async def main() -> None:
        settings = ApiSettings(token=TOKEN, version="0")
        factory = partial(build_app, backend, settings)
        async with trio.open_nursery() as nursery:
            state["scope"] = nursery.cancel_scope
            state["trio"] = trio.lowlevel.current_trio_token()
            state["port"] = await nursery.start(serve_http, factory, "127.0.0.1", 0)
            ready.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            state["error"] = error
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    if "port" not in state:
        thread.join()
        raise state["error"]
    try:
        yield Server(f"http://127.0.0.1:{state['port']}", state["port"])
    finally:
        state["trio"].run_sync_soon(state["scope"].cancel)
        thread.join()
    if "error" in state:
        raise state["error"]

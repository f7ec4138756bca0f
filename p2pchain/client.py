"""
A small synchronous JSON-RPC client: what the command line and scripts talk with.

    RpcClient("http://127.0.0.1:26657", token).call("status")

Errors say what happened, why and what to do, because a person reads them.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any

from primitives.errors import P2PChainError

Response = HTTPResponse | urllib.error.HTTPError

TIMEOUT_S = 30.0
"""A node answers reads in milliseconds and commits in a few blocks."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Above the largest answer, a genesis with many allocations."""
CHUNK_BYTES = 64 * 1024
MAX_MESSAGE_CHARS = 4096
"""Of a refusal that people read."""


class RpcError(P2PChainError):
    """The node could not be asked, or refused."""

    def __init__(self, message: str, code: int | str = 0, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        """JSON-RPC error code; the OpenAI code for chats; 0 when nobody answered."""
        self.data = data


class NodeUnreachable(RpcError):
    """Nothing that speaks our protocol answers at the address."""


class OversizedAnswer(RpcError):
    """More bytes, or for longer, than any honest answer has."""


class RpcClient:
    """Calls one node."""

    def __init__(
        self, url: str, token: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s

    def call(self, method: str, **params: Any) -> Any:
        """Return the result of `method`.

        Raises:
            NodeUnreachable: Nobody answers.
            RpcError: The node refuses; has its code.
        """
        return self.call_bounded(method, params, MAX_ANSWER_BYTES)

    def call_bounded(self, method: str, params: Any, max_bytes: int) -> Any:
        """Like `call`, for a node that is not trusted to be short.

        Raises:
            NodeUnreachable: Nobody answers.
            OversizedAnswer: More than `max_bytes`, or not all of it in time.
            RpcError: The node refuses; has its code.
        """
        answer = self.call_raw(method, params, max_bytes)
        if "error" in answer:
            error = answer["error"]
            if not isinstance(error, dict):
                error = {"message": "it refuses, and does not say why"}
            message = str(error.get("message"))[:MAX_MESSAGE_CHARS]
            raise RpcError(message, error.get("code", 0), error.get("data"))
        return answer["result"]

    def call_raw(
        self, method: str, params: Any, max_bytes: int = MAX_ANSWER_BYTES
    ) -> dict[str, Any]:
        """Return the whole answer of `method`, error or result.

        Raises:
            NodeUnreachable: Nobody answers.
            OversizedAnswer: More than `max_bytes`, or not all of it in time.
        """
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with self._open("/", body) as response:
            answer = self._read(response, max_bytes)
        if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
            raise NodeUnreachable(f"{self.url} does not speak JSON-RPC")
        return answer

    def get(self, path: str) -> Any:
        """Return the JSON at `path`.

        Raises:
            NodeUnreachable: Nobody answers.
            RpcError: The node refuses.
        """
        with self._open(path, None) as response:
            answer = self._read(response)
            _refuse_failure(response, lambda: answer)
        return answer

    def stream_chat(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a /v1/chat/completions stream.

        The first item is {"headers": {...}} with the answer's headers, lower case.

        Raises:
            NodeUnreachable: Nobody answers.
            RpcError: The node refuses, or the answer broke off.
        """
        path = "/v1/chat/completions"
        with self._open(path, body | {"stream": True}) as response:
            _refuse_failure(response, lambda: self._read(response))
            yield {"headers": {k.lower(): v for k, v in response.headers.items()}}
            for line in response:
                if not line.startswith(b"data: "):
                    continue
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    raise _build_error(chunk, 0)
                yield chunk
        raise RpcError("the answer broke off: the node closed the connection")

    @contextmanager
    def _open(self, path: str, body: dict[str, Any] | None) -> Iterator[Response]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            request = urllib.request.Request(self.url + path, data, headers)
            try:
                response = _OPENER.open(request, timeout=self._timeout_s)
            except urllib.error.HTTPError as error:
                response = error  # an answer like any other; its body says more
            with response:
                yield response
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise NodeUnreachable(
                f"no node answers at {self.url} ({reason}); start one with "
                "`p2pchain start`, or name another one with --rpc URL"
            ) from error

    def _read(self, response: Any, max_bytes: int = MAX_ANSWER_BYTES) -> Any:
        """Return the JSON of an answer, which is over in time or refused."""
        deadline = time.monotonic() + self._timeout_s
        data = bytearray()
        while chunk := response.read1(CHUNK_BYTES):
            data += chunk
            if len(data) > max_bytes:
                raise OversizedAnswer(f"{self.url} answers more than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise OversizedAnswer(
                    f"{self.url} has not said all after {self._timeout_s:g} s"
                )
        try:
            return json.loads(data)
        except RecursionError as error:
            raise OversizedAnswer(f"{self.url} answers nested brackets") from error


# Nodes are reached directly: a proxy of the environment would see the token.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _refuse_failure(response: Response, read: Callable[[], Any]) -> None:
    status = response.status or 0
    if status >= 400:
        raise _build_error(read(), status)


def _build_error(answer: Any, status: int) -> RpcError:
    error = answer.get("error") if isinstance(answer, dict) else None
    error = error if isinstance(error, dict) else {}
    message = error.get("message", f"the node answers {status}")
    return RpcError(message, error.get("code") or status, error)

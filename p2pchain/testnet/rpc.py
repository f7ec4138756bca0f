"""
Asking nodes, from a task: calls run in threads, so a paused node costs only its caller.

Every answer is a node's own; nothing here looks into homes or databases.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import trio

from p2pchain.client import MAX_ANSWER_BYTES, NodeUnreachable, RpcClient, RpcError

Json = dict[str, Any]
Call = tuple[str, Json]

TIMEOUT_S = 10.0
"""A node answers in milliseconds; one that replays on a busy core, in a second."""
BATCH = 100
"""Calls in one request, the most that the RPC takes."""

_OPENER = build_opener(ProxyHandler({}))


class NodeRpc:
    """The RPC of one node that runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = RpcClient(url, timeout_s=TIMEOUT_S)

    async def call(self, method: str, **params: Any) -> Any:
        """Return the result of `method`.

        Raises:
            NodeUnreachable: Nobody answers.
            RpcError: The node refuses.
        """
        call = functools.partial(self._client.call, method, **params)
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)

    async def call_many(self, calls: Sequence[Call]) -> list[Json]:
        """Return the whole answers, error or result, in the order of the calls.

        Raises:
            NodeUnreachable: Nobody answers.
        """
        answers: list[Json] = []
        for start in range(0, len(calls), BATCH):
            batch = functools.partial(self._post, calls[start : start + BATCH])
            answers += await trio.to_thread.run_sync(batch, abandon_on_cancel=True)
        return answers

    async def get_results(self, calls: Sequence[Call]) -> list[Any]:
        """Return the results of calls none of which a node may refuse.

        Raises:
            NodeUnreachable: Nobody answers.
            RpcError: The node refuses one.
        """
        results = []
        for call, answer in zip(calls, await self.call_many(calls), strict=True):
            if "error" in answer:
                error = answer["error"]
                raise RpcError(f"{call[0]}: {error['message']}", error["code"])
            results.append(answer["result"])
        return results

    def _post(self, calls: Sequence[Call]) -> list[Json]:
        body = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(calls)
        ]
        headers = {"Content-Type": "application/json"}
        try:
            request = Request(self.url, json.dumps(body).encode(), headers)
            with _OPENER.open(request, timeout=TIMEOUT_S) as response:
                answers: list[Json] = json.loads(response.read(MAX_ANSWER_BYTES))
        except (OSError, ValueError) as error:
            raise NodeUnreachable(f"no node answers at {self.url} ({error})") from error
        return sorted(answers, key=lambda answer: int(answer["id"]))

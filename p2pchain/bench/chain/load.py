"""
A load of transfers through RPC: signed on the way, at a given rate, and followed.

Every sender belongs to one validator and one shard and sends in order of its nonces, so
nothing waits for a gap.  What is refused because a pool is full is sent again.  The
last transfer of every batch is followed until a node shows it as final, by asking once
per block, so that measuring costs little and a latency is late by `POLL_S` at most.
"""

import http.client
import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from chain.records.params import ChainParams
from chain.records.transaction import compute_tx_id
from chain.records.transfer import Transfer
from p2pchain.bench.lab.lab import BenchError
from primitives.address import encode_address
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import Height, ShardId
from wallet.transactions import ChainView, build_transaction

TICK_S = 0.1
"""Between the batches of one validator."""
POLL_S = 0.03
MAX_BATCH = 100
"""Calls in one request."""
REPEATED = {"pool_full", "nonce_gap"}
"""Refusals after which the same transfer is sent again."""


@dataclass(slots=True)
class Sender:
    """An account with money in its shard."""

    key: SecretKey
    shard: ShardId
    recipient: bytes
    to_shard: ShardId
    nonce: int = 0


@dataclass(frozen=True, slots=True)
class Followed:
    """A transfer that was followed to its end."""

    shard: ShardId
    sent_s: float
    """On the monotonic clock."""
    final_s: float


@dataclass(slots=True)
class Load:
    """Threads that send, one per validator, and one that follows.

    Args:
        chain_id: Of the chain.
        params: Of the chain.
        urls: RPC of the validators.
        senders: Spread over the validators.
        rate: Transfers per second over all of them.
    """

    chain_id: bytes
    params: ChainParams
    urls: Sequence[str]
    senders: Sequence[Sender]
    rate: float
    followed: list[Followed] = field(default_factory=list)
    taken: int = 0
    """Transfers that a mempool took."""
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    _height: Height = 0
    _waiting: deque[tuple[str, ShardId, float]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to send."""
        self._height = int(_call(self._connect(0), "status", {})["height"])
        for index in range(len(self.urls)):
            self._spawn(self._send, index)
        self._spawn(self._follow)

    def stop(self) -> None:
        """Send no more, follow no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise BenchError(self.errors[0])

    def count_final(self) -> int:
        """Return how many transfers of all senders are final."""
        connection = self._connect(0)
        total = 0
        for sender in self.senders:
            address = {"address": encode_address(sender.key.public_key)}
            for place in _call(connection, "account", address)["shards"]:
                if place["shard"] == sender.shard:
                    total += int(place["nonce"])
        return total

    # Threads

    def _spawn(self, work: Any, *args: Any) -> None:
        def run() -> None:
            try:
                work(*args)
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                self._stop.set()

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def _send(self, index: int) -> None:
        own = self.senders[index :: len(self.urls)]
        connection = self._connect(index)
        begun = time.monotonic()
        count = turn = 0
        while not self._stop.is_set():
            due = (time.monotonic() - begun) * self.rate / len(self.urls)
            batch: list[Sender] = []
            while count < due and len(batch) < MAX_BATCH:
                batch.append(own[turn % len(own)])
                turn += 1
                count += 1
            if batch:
                count -= self._send_batch(connection, batch)
            self._stop.wait(TICK_S)

    def _send_batch(
        self, connection: http.client.HTTPConnection, batch: list[Sender]
    ) -> int:
        """Send a transfer of each sender; returns how many have to be sent again."""
        signed = [self._sign(sender) for sender in batch]
        calls = [("broadcast_tx_sync", {"tx": "0x" + data.hex()}) for _, data in signed]
        sent_s = time.monotonic()
        refused, last = 0, None
        answers = _call_all(connection, calls)
        for sender, (nonce, data), answer in zip(batch, signed, answers, strict=True):
            error = answer.get("error")
            if error is None:
                last = data, sender
                continue
            reason = error.get("data", {}).get("reason", "")
            if reason == "double_spend":
                # Taken at the first try, behind one that was not.
                continue
            if reason not in REPEATED:
                raise BenchError(f"a transfer was refused: {error}")
            sender.nonce = min(sender.nonce, nonce)
            refused += 1
        with self._lock:
            self.taken += len(batch) - refused
            self.refused += refused
            if last is not None:
                data, sender = last
                tx_id = "0x" + compute_tx_id(data).hex()
                self._waiting.append((tx_id, sender.shard, sent_s))
        return refused

    def _sign(self, sender: Sender) -> tuple[int, bytes]:
        """Return a sender's next transfer with its nonce."""
        view = ChainView(
            self.chain_id, self.params, self._height, {sender.shard: sender.nonce}
        )
        payload = Transfer(sender.recipient, sender.to_shard, 1)
        sender.nonce += 1
        built = build_transaction(sender.key, view, sender.shard, payload)
        return built.transaction.nonce, encode(built)

    def _follow(self) -> None:
        connection = self._connect(0)
        while not self._stop.wait(POLL_S):
            height = int(_call(connection, "status", {})["height"])
            now = time.monotonic()
            if height == self._height:
                continue
            self._height = height
            with self._lock:
                waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for at in range(0, len(waiting), MAX_BATCH):
                lot = waiting[at : at + MAX_BATCH]
                calls = [("tx", {"hash": tx_id}) for tx_id, _, _ in lot]
                answers = _call_all(connection, calls)
                for (tx_id, shard, sent_s), answer in zip(lot, answers, strict=True):
                    if answer.get("result", {}).get("final"):
                        self.followed.append(Followed(shard, sent_s, now))
                    else:
                        with self._lock:
                            self._waiting.append((tx_id, shard, sent_s))

    def _connect(self, index: int) -> http.client.HTTPConnection:
        place = urlsplit(self.urls[index])
        assert place.hostname is not None
        return http.client.HTTPConnection(place.hostname, place.port, timeout=60)


def _call(
    connection: http.client.HTTPConnection, method: str, params: dict[str, Any]
) -> Any:
    (answer,) = _call_all(connection, [(method, params)])
    if "error" in answer:
        raise BenchError(f"{method}: {answer['error']}")
    return answer["result"]


def _call_all(
    connection: http.client.HTTPConnection,
    calls: Sequence[tuple[str, dict[str, Any]]],
) -> list[dict[str, Any]]:
    body = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(calls)
    ]
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/", json.dumps(body), headers)
    answers: list[dict[str, Any]] = json.load(connection.getresponse())
    return answers

"""
A process that executes chunks: one socket to the node, one request at a time.

    python -m p2pchain.node.chunks.worker --fd N --bls native

It holds no state: what it needs comes with the request or is asked for, and nothing
but which signatures it has verified outlives a request.  It runs the code that the
node runs.  When the node's end of the socket closes, it ends.
"""

import argparse
import resource
import signal
import socket
import sys
from collections.abc import Iterable, Sequence

from chain.errors import InvalidWitness
from chain.execution.chunk import ChunkBody, execute_chunk
from chain.execution.context import decode_context
from chain.execution.verified import VerifiedCache
from chain.execution.witness import execute_witnessed
from chain.records.transaction import compute_tx_id
from chain.state.chunk_state import BucketReader
from p2pchain.errors import NodeFailed
from p2pchain.node.chunks.wire import (
    Answer,
    Execute,
    Judge,
    Need,
    Ready,
    Refused,
    Supply,
    build_done,
    decode_request,
    receive_frame,
    send_message,
    unpack_bits,
)
from primitives.bls import select_backend
from primitives.buckets import Bucket, compute_bucket_count, decode_bucket
from primitives.errors import P2PChainError
from shards.errors import InvalidChunk

MAX_MEMORY_BYTES = 2 * 1024**3
"""Address space: forty times what full blocks take; a chunk that needs more ends the
worker, not the machine."""

MAX_KNOWN = 8192
"""Signatures remembered: two full chunks; the node remembers the others."""


READ_AHEAD = 64
"""Buckets: asking costs some 50 us, sending a bucket along a tenth of that."""


class SuppliedState(BucketReader):
    """A shard's state that the node has, bucket by bucket over the socket."""

    def __init__(self, link: socket.socket, levels: int) -> None:
        super().__init__(levels, self._ask)
        self._link = link
        self._data: dict[int, bytes] = {}

    def prepare(self, keys: Iterable[bytes]) -> None:
        """Ask for what will probably be read, all at once."""
        self._fetch(sorted({self.get_index(key) for key in keys}))

    def _ask(self, index: int) -> Bucket:
        if index not in self._data:
            # Who goes through the buckets in order will read the next ones too.
            is_walking = index - 1 in self._data
            end = index + (READ_AHEAD if is_walking else 1)
            count = compute_bucket_count(self.levels)
            self._fetch(
                [i for i in range(index, min(end, count)) if i not in self._data]
            )
        return decode_bucket(self._data[index])

    def _fetch(self, indices: Sequence[int]) -> None:
        send_message(self._link, Need(tuple(indices)))
        data = receive_frame(self._link)
        supply = None if data is None else decode_request(data)
        if not isinstance(supply, Supply) or len(supply.buckets) != len(indices):
            raise NodeFailed("the node did not send the buckets")
        self._data.update(zip(indices, supply.buckets, strict=True))


def serve(link: socket.socket) -> None:
    """Answer requests until the node closes the socket.

    Raises:
        DecodeError: It speaks another language.
        NodeFailed: It went away in the middle of a chunk.
    """
    verified = VerifiedCache(MAX_KNOWN)
    send_message(link, Ready())
    while (data := receive_frame(link)) is not None:
        answer = _answer(link, data, verified)
        send_message(link, answer)


def _answer(link: socket.socket, data: bytes, verified: VerifiedCache) -> Answer:
    request = decode_request(data)
    try:
        match request:
            case Execute():
                _learn(request.body, request.known, verified)
                executed = execute_chunk(
                    decode_context(request.context),
                    SuppliedState(link, request.levels),
                    request.body,
                    request.limits,
                    verified,
                )
            case Judge():
                _learn(request.body, request.known, verified)
                executed = execute_witnessed(
                    decode_context(request.context),
                    request.header,
                    request.body,
                    request.witness,
                    request.limits,
                    verified,
                )
            case Supply():
                raise NodeFailed("buckets that nobody asked for")
        return build_done(executed)
    except InvalidWitness as error:
        return Refused(True, str(error))
    except InvalidChunk as error:
        return Refused(False, str(error))


def _learn(body: ChunkBody, known: bytes, verified: VerifiedCache) -> None:
    """Take the node's word for signatures that it has checked."""
    flags = unpack_bits(known, len(body.transactions))
    for signed_bytes, is_known in zip(body.transactions, flags, strict=True):
        if is_known:
            verified.add(compute_tx_id(signed_bytes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the node; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m p2pchain.node.chunks.worker")
    parser.add_argument("--fd", type=int, required=True, help="end of a socket pair")
    parser.add_argument("--bls", choices=["native", "reference"], default="native")
    options = parser.parse_args(arguments)
    # The node ends us by closing the socket, also when Ctrl-C reaches both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    select_backend(options.bls)
    with socket.socket(fileno=options.fd) as link:
        try:
            serve(link)
        except (BrokenPipeError, ConnectionResetError):
            # The node is gone, and nobody waits for the answer.
            return 0
        except P2PChainError as error:
            print(f"chunk worker: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

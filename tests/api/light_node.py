"""A node for light clients: short epochs, stakes, and an HTTP server that may lie."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chain_backend import ChainNode
from epoch_world import EpochWorld, build_epoch_genesis

from chain.mempool import Mempool
from chain.queries.queries import Queries
from p2pchain.client import RpcClient


class LightNode(ChainNode):
    """Four blocks are an epoch, and validators join and leave."""

    def __init__(self) -> None:
        super().__init__()
        self.genesis = build_epoch_genesis()
        self.world = EpochWorld(is_judged=False)
        self.tree = self.world.tree
        self.queries = Queries(self.tree)
        self.mempool = Mempool(self.tree.spec, self.tree.verified)

    def make_epochs(self, count: int) -> None:
        self.world.end_epoch(count)


class Liar(RpcClient):
    """A client whose node's answers a test changes on their way."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lies: dict[str, Any] = {}
        """By method: a function of (answer, params), or the answer itself."""
        self.calls: list[str] = []

    def call_bounded(self, method: str, params: Any, max_bytes: int) -> Any:
        self.calls.append(method)
        lie = self.lies.get(method)
        if lie is not None and not callable(lie):
            return lie
        answer = super().call_bounded(method, params, max_bytes)
        return answer if lie is None else lie(answer, params)


@contextmanager
def serve_bytes(body: bytes, status: int = 200, pieces: float = 0) -> Iterator[str]:
    """Answer everything with the same bytes; yields the URL.

    Args:
        body: The answer.
        status: Of HTTP.
        pieces: Seconds between bytes; 0: all at once.
    """
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                if not pieces:
                    self.wfile.write(body)
                    return
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    if stopped.wait(pieces):
                        return
            except OSError:
                pass  # the client has read enough

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()

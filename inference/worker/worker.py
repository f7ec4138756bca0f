"""
A worker process: one engine, one socket to the node, one pass at a time.

    python -m inference.worker.worker stage --model DIR --layers A:B --fd N
    python -m inference.worker.worker requester --model DIR --fd N

Between two passes it takes every request that has come, so that those of many sessions
share the next one (inference/engine/scheduler.py), and waits a little for those who
shared the last one (inference/engine/companions.py).  What a pass answers leaves in one
piece, so that they come back together.

The node starts it with its end of a socket pair (wire.py).  It is niced below
the node, so that a vote never waits for a matrix product.  When the node's end closes,
for whatever reason, the process ends at once, also in the middle of a forward pass:
a thread watches the socket for the hang-up.  (PR_SET_PDEATHSIG would do the same for
the death of the thread that started us, which is not the death of the node.)
"""

import argparse
import contextlib
import gc
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from inference.device.device import measure_free_bytes
from inference.device.hardware import CPU
from inference.device.memory import DEFAULT_KV_BUDGET_BYTES
from inference.device.memory_limit import limit_growth
from inference.device.precision import Precision
from inference.engine.companions import Companions
from inference.errors import ModelError
from inference.protocol.steps import MAX_DECODE_TOKENS
from inference.worker.service import (
    Buffer,
    NullService,
    Reply,
    RequesterService,
    Service,
    StageService,
    build_refusal,
)
from inference.worker.wire import (
    PREFIX_BYTES,
    CloseSession,
    Counts,
    Forward,
    ReadCounts,
    Ready,
    Refused,
    Request,
    Sample,
    decode_prefix,
    decode_request,
    encode_frame,
)
from primitives.errors import P2PChainError

NICENESS = 5
"""Below the node, above batch jobs."""

OOM_SCORE = 700
"""Of 1000: before the node and the user's programs, which have none."""

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
"""Set in every worker: no spinning threads, nothing from the network."""

log = logging.getLogger("inference.worker.worker")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until its socket closes; return the exit status."""
    options = _parse(arguments)
    link = socket.socket(fileno=options.fd)
    _watch_for_hangup(link)
    os.nice(NICENESS)
    _offer_to_the_killer()
    # Before torch is imported, which the services do: it reads them once.
    os.environ.update(ENVIRONMENT, OMP_NUM_THREADS=str(options.threads))
    logging.basicConfig(format=f"worker {os.getpid()} %(levelname)s %(message)s")
    return _run(link, options)


def _run(link: socket.socket, options: argparse.Namespace) -> int:
    try:
        service = _build_service(options)
        # Half a million objects of the libraries never go away: without this the
        # collector looks at them all again every few hundred steps.
        gc.collect()
        gc.freeze()
        limit_growth(measure_free_bytes(), options.growth_bytes)
        _send(link, [(service.build_ready(), b"")])
    except P2PChainError as error:
        code = getattr(error, "code", ModelError.code)
        _send(link, [(Refused(0, code, str(error)), b"")])
        return 1
    _serve(link, service)
    return 0


def _serve(link: socket.socket, service: Service) -> None:
    """Take requests and run passes until the node's end closes."""
    companions = Companions()
    passes = answers = 0
    while True:
        # With nothing to do, wait for the node; else look what has come, or for those
        # with whom the pass is shared.
        while not service.has_work or _has_come(link, companions):
            frame = _read_frame(link)
            if frame is None:
                return
            header, payload = frame
            request = decode_request(header)
            if isinstance(request, ReadCounts):
                _send(link, [(Counts(request.call, passes, answers), b"")])
                continue
            _note(companions, request)
            replies = _handle(service, request, payload)
            for call in _list_calls(replies):
                companions.drop(call)
            _send(link, replies)
        started_s = time.monotonic()
        replies = service.step()
        took_s = time.monotonic() - started_s
        done = [reply for reply in replies if not isinstance(reply[0], Refused)]
        companions.on_pass(_list_calls(done), took_s)
        for call in _list_calls(replies):
            companions.drop(call)
        passes, answers = passes + 1, answers + len(done)
        _send(link, replies)


def _handle(service: Service, request: Request, payload: bytearray) -> list[Reply]:
    try:
        return service.handle(request, payload)
    except Exception as error:
        return [(build_refusal(request.call, error), b"")]


def _has_come(link: socket.socket, companions: Companions) -> bool:
    wait_s = companions.compute_wait_s(time.monotonic())
    # Not poll, which counts in milliseconds: a pass may take less.
    return bool(select.select([link], [], [], wait_s)[0])


def _note(companions: Companions, request: Request) -> None:
    match request:
        case Forward(call, session_id, _, tokens):
            is_step = tokens <= MAX_DECODE_TOKENS
            companions.on_request(call, session_id, time.monotonic(), waits=is_step)
        case Sample(call, session_id):
            companions.on_request(call, session_id, time.monotonic())
        case CloseSession(_, session_id):
            companions.forget(session_id)


def _list_calls(replies: list[Reply]) -> list[int]:
    return [answer.call for answer, _ in replies if not isinstance(answer, Ready)]


def _send(link: socket.socket, replies: list[Reply]) -> None:
    parts: list[Buffer] = []
    for answer, body in replies:
        parts += [encode_frame(answer, len(body)), body]
    try:
        link.sendall(b"".join(parts))
    except ConnectionError:
        # The node is gone; the next read says so and the loop ends.
        log.info("the node closed its end")


def _build_service(options: argparse.Namespace) -> Service:
    if options.role == "requester":
        return RequesterService(
            options.model,
            threads=options.threads,
            precision=options.precision,
            device=options.device,
            draft_model=options.draft_model,
        )
    if options.null:
        return NullService(options.model)
    return StageService(
        options.model,
        options.layers,
        threads=options.threads,
        kv_budget_bytes=options.kv_bytes,
        precision=options.precision,
        device=options.device,
    )


def _read_frame(link: socket.socket) -> tuple[bytearray, bytearray] | None:
    """Return header and payload of the next frame, None when the node is gone."""
    prefix = _read_exactly(link, PREFIX_BYTES)
    if prefix is None:
        return None
    header_bytes, payload_bytes = decode_prefix(prefix)
    header = _read_exactly(link, header_bytes)
    payload = _read_exactly(link, payload_bytes)
    return None if header is None or payload is None else (header, payload)


def _read_exactly(link: socket.socket, length: int) -> bytearray | None:
    buffer = bytearray(length)
    view = memoryview(buffer)
    done = 0
    while done < length:
        try:
            count = link.recv_into(view[done:])
        except ConnectionError:
            return None
        if count == 0:
            return None
        done += count
    return buffer


def _offer_to_the_killer() -> None:
    """Where memory runs out the system shall end a worker, and never the node."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _watch_for_hangup(link: socket.socket) -> None:
    def watch() -> None:
        poll = select.poll()
        # Not POLLIN: waiting data must not wake this thread.
        poll.register(link, select.POLLRDHUP)
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, name="hangup", daemon=True).start()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="inference.worker.worker")
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("stage", "requester"):
        sub = roles.add_parser(role)
        sub.add_argument("--model", type=Path, required=True, metavar="DIR")
        sub.add_argument("--fd", type=int, required=True, metavar="N")
        sub.add_argument("--threads", type=int, default=1, metavar="N")
        sub.add_argument(
            "--precision", type=Precision, choices=Precision, default=Precision.NATIVE
        )
        sub.add_argument("--device", default=CPU, metavar="cpu|cuda[:N]|auto")
        sub.add_argument("--growth-bytes", type=int, metavar="N")
        if role == "stage":
            sub.add_argument("--layers", type=_parse_layers, required=True)
            sub.add_argument("--kv-bytes", type=int, default=DEFAULT_KV_BUDGET_BYTES)
            sub.add_argument("--null", action="store_true", help="compute nothing")
        else:
            sub.add_argument("--draft-model", type=Path, metavar="DIR")
    return parser.parse_args(arguments)


def _parse_layers(text: str) -> range:
    start, _, end = text.partition(":")
    return range(int(start), int(end))


if __name__ == "__main__":
    sys.exit(main())

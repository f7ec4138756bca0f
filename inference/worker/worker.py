"""
A worker process: one engine, one socket to the node, one pass at a time.

    python -m inference.worker.worker stage --model DIR --layers A:B --fd N
    python -m inference.worker.worker requester --model DIR --fd N

Between two passes it takes every request that has come, so that those of many sessions
share the next one (scheduler.py).

The node starts it with its end of a socket pair (worker_wire.py).  It is niced below
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
from collections.abc import Sequence
from pathlib import Path

from inference.device.device import measure_free_bytes
from inference.device.hardware import CPU
from inference.device.memory import DEFAULT_KV_BUDGET_BYTES
from inference.device.memory_limit import limit_growth
from inference.device.precision import Precision
from inference.errors import ModelError
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
    Answer,
    Refused,
    Request,
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
        _write_frame(link, service.build_ready(), b"")
    except P2PChainError as error:
        code = getattr(error, "code", ModelError.code)
        _write_frame(link, Refused(0, code, str(error)), b"")
        return 1
    data_waits = select.poll()
    data_waits.register(link, select.POLLIN)
    while True:
        # With nothing to do, wait for the node; else only look what has come.
        while not service.has_work or data_waits.poll(0):
            frame = _read_frame(link)
            if frame is None:
                return 0
            header, payload = frame
            _send(link, _handle(service, decode_request(header), payload))
        _send(link, service.step())


def _handle(service: Service, request: Request, payload: bytearray) -> list[Reply]:
    try:
        return service.handle(request, payload)
    except Exception as error:
        return [(build_refusal(request.call, error), b"")]


def _send(link: socket.socket, replies: list[Reply]) -> None:
    for answer, body in replies:
        _write_frame(link, answer, body)


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


def _write_frame(link: socket.socket, message: Answer, payload: Buffer) -> None:
    try:
        link.sendall(encode_frame(message, len(payload)))
        if payload:
            link.sendall(payload)
    except ConnectionError:
        # The node is gone; the next read says so and the loop ends.
        log.info("the node closed its end")


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

"""Worker processes over a bare socket: frames, errors, and their end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import HIDDEN, LAYERS, VOCAB, edit_config, save_model

from inference.device.memory import PAGE_TOKENS
from inference.errors import (
    BadAnswer,
    BadRequest,
    BadWeights,
    Busy,
    ModelError,
    UnknownSession,
    UnsupportedModel,
    WorkerError,
    WrongPosition,
    type_of_code,
)
from inference.sampling.params import ChatMessage, SampledToken, SamplingParams
from inference.worker.service import NullService
from inference.worker.wire import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    PREFIX_BYTES,
    Answer,
    CloseSession,
    Counts,
    Done,
    EncodeChat,
    EncodeText,
    Forward,
    HiddenStates,
    KeepPages,
    OpenAnswer,
    Opened,
    OpenSession,
    ReadCounts,
    ReadPages,
    Ready,
    Refused,
    Request,
    Sample,
    Sampled,
    WritePages,
    decode_answer,
    decode_prefix,
    decode_request,
    encode_frame,
)
from inference.worker.worker import OOM_SCORE
from primitives.codec import encode
from primitives.errors import DecodeError

TOKEN_BYTES = 4 * HIDDEN


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"))


class RawWorker:
    """A worker process and the node's end of its socket, without a supervisor."""

    def __init__(self, process: subprocess.Popen[bytes], link: socket.socket) -> None:
        self.process = process
        self.link = link
        link.settimeout(60)

    def send(self, request: Request, payload: bytes = b"") -> None:
        self.link.sendall(encode_frame(request, len(payload)) + payload)

    def receive(self) -> tuple[Answer, bytes]:
        prefix = self._receive_exactly(PREFIX_BYTES)
        header_bytes, payload_bytes = decode_prefix(prefix)
        header = self._receive_exactly(header_bytes)
        return decode_answer(header), self._receive_exactly(payload_bytes)

    def ask(self, request: Request, payload: bytes = b"") -> tuple[Answer, bytes]:
        self.send(request, payload)
        return self.receive()

    def _receive_exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.link.recv(length - len(data))
            assert part, "the worker closed its socket"
            data += part
        return data


@contextmanager
def start_worker(directory: Path, *role: str) -> Iterator[RawWorker]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "inference.worker.worker", *role]
    command += ["--model", str(directory), "--fd", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    try:
        with ours:
            yield RawWorker(process, ours)
    finally:
        # The closed socket alone ends it.
        assert process.wait(timeout=60) in (0, 1, -signal.SIGKILL)


@pytest.fixture(scope="module")
def stage(directory: Path) -> Iterator[RawWorker]:
    position_bytes = 2 * 2 * 8 * 4
    budget = str(3 * PAGE_TOKENS * position_bytes)
    role = ("stage", "--layers", "1:2", "--kv-bytes", budget)
    with start_worker(directory, *role) as worker:
        ready, _ = worker.receive()
        assert isinstance(ready, Ready)
        assert (ready.hidden_size, ready.vocab_size) == (HIDDEN, VOCAB)
        assert (ready.layers, ready.dtype) == (LAYERS, "float32")
        assert ready.position_bytes == position_bytes
        assert len(ready.pieces) == 9
        assert all(p.name.startswith("model.layers.1.") for p in ready.pieces)
        yield worker


def test_a_stage_opens_runs_repeats_and_closes(stage: RawWorker) -> None:
    assert stage.ask(OpenSession(1, b"run", 10, ())) == (Opened(1, 0), b"")
    hidden = bytes(range(64)) * 6
    first = stage.ask(Forward(2, b"run", 0, 3), hidden)
    assert first[0] == HiddenStates(2, 3)
    assert len(first[1]) == 3 * TOKEN_BYTES
    assert stage.ask(Forward(3, b"run", 0, 3), hidden)[1] == first[1]
    assert stage.ask(CloseSession(4, b"run")) == (Done(4), b"")
    assert stage.ask(CloseSession(5, b"run")) == (Done(5), b"")


@pytest.mark.parametrize(
    ("request_", "payload_bytes", "error"),
    [
        (Forward(7, b"nobody", 0, 1), TOKEN_BYTES, UnknownSession),
        (Forward(7, b"s", 1, 1), TOKEN_BYTES, WrongPosition),
        (Forward(7, b"s", 0, 11), 11 * TOKEN_BYTES, WrongPosition),
        (Forward(7, b"s", 0, 1), TOKEN_BYTES - 1, BadAnswer),
        (Forward(7, b"s", 0, 1), TOKEN_BYTES + 4, BadAnswer),
        (Forward(7, b"s", 0, 2), TOKEN_BYTES, BadAnswer),
        (Forward(7, b"s", 0, 0), 0, BadAnswer),
        (Forward(7, b"s", 0, 2**32 - 1), TOKEN_BYTES, BadAnswer),
        (OpenSession(7, b"s", 10, ()), 0, BadRequest),
        (OpenSession(7, b"", 10, ()), 0, BadRequest),
        (OpenSession(7, b"t", 41, ()), 0, Busy),
        (EncodeText(7, "hi"), 0, BadRequest),
        (Sample(7, b"s", 1, (), 0), TOKEN_BYTES, BadRequest),
    ],
)
def test_a_stage_refuses_and_lives(
    stage: RawWorker, request_: Request, payload_bytes: int, error: type[Exception]
) -> None:
    assert stage.ask(OpenSession(6, b"s", 10, ())) == (Opened(6, 0), b"")
    answer, payload = stage.ask(request_, bytes(payload_bytes))
    assert isinstance(answer, Refused)
    assert (answer.call, payload) == (7, b"")
    assert type_of_code[answer.code] is error
    assert stage.ask(CloseSession(8, b"s")) == (Done(8), b"")


def test_pipelined_requests_of_a_session_are_answered_in_order(
    stage: RawWorker,
) -> None:
    stage.send(OpenSession(1, b"p", 10, ()))
    for number in range(2, 9):
        stage.send(Forward(number, b"p", number - 2, 1), bytes(TOKEN_BYTES))
    answers = [stage.receive()[0] for _ in range(8)]
    assert [answer.call for answer in answers] == list(range(1, 9))
    assert not any(isinstance(answer, Refused) for answer in answers)
    assert stage.ask(CloseSession(9, b"p")) == (Done(9), b"")


def test_every_call_of_a_session_that_is_closed_is_answered(stage: RawWorker) -> None:
    assert stage.ask(OpenSession(1, b"p", 40, ())) == (Opened(1, 0), b"")
    forward = encode_frame(Forward(2, b"p", 0, 20), 20 * TOKEN_BYTES)
    frames = forward + bytes(20 * TOKEN_BYTES)
    frames += encode_frame(Forward(3, b"p", 20, 1), TOKEN_BYTES) + bytes(TOKEN_BYTES)
    stage.link.sendall(frames + encode_frame(CloseSession(4, b"p")))
    answers = {answer.call: answer for answer, _ in (stage.receive() for _ in "123")}
    assert answers[4] == Done(4)
    for call in (2, 3):
        match answers[call]:
            case Refused(code=code):
                assert type_of_code[code] is UnknownSession
            case HiddenStates():
                pass
            case other:
                raise AssertionError(other)


def test_sessions_that_share_passes_get_their_own_answers(stage: RawWorker) -> None:
    def ask_alone(name: bytes, hidden: bytes) -> bytes:
        stage.ask(OpenSession(1, name, 10, ()))
        output = stage.ask(Forward(2, name, 0, len(hidden) // TOKEN_BYTES), hidden)[1]
        stage.ask(CloseSession(3, name))
        return output

    generator = np.random.default_rng(0)
    inputs = {
        bytes([65 + number]): generator.standard_normal(
            (1 + number, HIDDEN), np.float32
        ).tobytes()
        for number in range(3)
    }
    expected = {name: ask_alone(name, hidden) for name, hidden in inputs.items()}
    calls = {10 + number: name for number, name in enumerate(inputs)}
    for call, name in calls.items():
        stage.ask(OpenSession(call, name, 10, ()))
    before, _ = stage.ask(ReadCounts(9))
    frames = b""
    for call, name in calls.items():
        tokens = len(inputs[name]) // TOKEN_BYTES
        header = encode_frame(Forward(call, name, 0, tokens), len(inputs[name]))
        frames += header + inputs[name]
    stage.link.sendall(frames)
    for _ in calls:
        answer, output = stage.receive()
        name = calls[answer.call]
        ours, theirs = (np.frombuffer(x, np.float32) for x in (output, expected[name]))
        assert np.allclose(ours, theirs, atol=1e-4)
    after, _ = stage.ask(ReadCounts(9))
    assert isinstance(before, Counts)
    assert isinstance(after, Counts)
    passes, answers = after.passes - before.passes, after.answers - before.answers
    assert (passes, answers) == (1, len(calls))
    # Those who shared a pass are not held up for good by who does not come back.
    [name, *_] = inputs
    assert stage.ask(Forward(11, name, 1, 1), inputs[name])[0] == HiddenStates(11, 1)
    for name in inputs:
        stage.ask(CloseSession(9, name))


def test_a_worker_is_niced_and_imports_nothing_it_does_not_need(
    directory: Path, stage: RawWorker
) -> None:
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, stage.process.pid) == min(19, ours + 5)
    score = Path(f"/proc/{stage.process.pid}/oom_score_adj").read_text()
    assert int(score) == OOM_SCORE
    with start_worker(directory, "stage", "--layers", "0:1", "--null") as worker:
        worker.receive()
        maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
        assert "libtorch" not in maps


@pytest.mark.parametrize(
    ("layers", "changes", "error"),
    [
        ("3:5", {}, UnsupportedModel),
        ("0:1", {"hidden_size": 16}, BadWeights),
        ("0:1", {"model_type": "gemma3n_text"}, UnsupportedModel),
    ],
)
def test_a_worker_that_cannot_start_says_why(
    tmp_path: Path, layers: str, changes: dict[str, object], error: type[ModelError]
) -> None:
    directory = save_model(tmp_path)
    edit_config(directory, **changes)
    with start_worker(directory, "stage", "--layers", layers) as worker:
        answer, _ = worker.receive()
        assert isinstance(answer, Refused)
        assert answer.call == 0
        assert type_of_code[answer.code] is error
        assert worker.process.wait(timeout=60) == 1


def test_a_missing_model_is_said_too(tmp_path: Path) -> None:
    with start_worker(tmp_path / "nowhere", "requester") as worker:
        answer, _ = worker.receive()
        assert isinstance(answer, Refused)
        assert type_of_code[answer.code] is BadWeights


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 8,
        bytes(8),
        b"\0\0\0\1\0\0\0\0\xc1",
        b"\0\0\0\3\0\0\0\0\x92\x63\x01",
    ],
)
def test_garbage_ends_the_worker_not_in_a_hang(directory: Path, garbage: bytes) -> None:
    with start_worker(directory, "stage", "--layers", "0:1", "--null") as worker:
        worker.receive()
        worker.link.sendall(garbage)
        assert worker.process.wait(timeout=60) == 1


def test_a_worker_ends_with_the_node_also_when_it_is_busy(directory: Path) -> None:
    with start_worker(directory, "stage", "--layers", "0:1", "--null") as worker:
        worker.receive()
        # Half a frame: the worker waits for the rest, in the middle of a request.
        worker.link.sendall(encode_frame(Forward(1, b"s", 0, 1), TOKEN_BYTES)[:-1])
        worker.link.close()
        assert worker.process.wait(timeout=60) == 0


def test_errors_outside_the_tree_become_answers(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference.worker import worker

    def explode(*_: object) -> None:
        raise MemoryError("no room for scores")

    service = NullService(directory)
    monkeypatch.setattr(service, "handle", explode)
    replies = worker._handle(service, Forward(9, b"s", 0, 1), bytearray())
    refusal = Refused(9, WorkerError.code, "MemoryError: no room for scores")
    assert replies == [(refusal, b"")]


messages = [
    OpenSession(1, b"s", 5, (bytes(32), b"k" * 32)),
    KeepPages(2, b"s", 3, (b"k" * 32,)),
    ReadPages(2, (b"k" * 32,)),
    WritePages(2, b"s", 3),
    ReadCounts(2),
    Forward(2, b"s", 0, 1),
    CloseSession(3, b"s"),
    EncodeChat(4, (ChatMessage("user", "é"),)),
    OpenAnswer(5, b"s", SamplingParams(temperature=0.5, stop=("x",)), (1, 2)),
]


@pytest.mark.parametrize("message", messages)
def test_requests_survive_the_wire(message: Request) -> None:
    frame = encode_frame(message, 7)
    header_bytes, payload_bytes = decode_prefix(frame)
    assert (header_bytes, payload_bytes) == (len(frame) - PREFIX_BYTES, 7)
    assert decode_request(frame[PREFIX_BYTES:]) == message
    with pytest.raises(DecodeError):
        decode_answer(frame[PREFIX_BYTES:])
    for end in range(len(encode(message))):
        with pytest.raises(DecodeError):
            decode_request(encode(message)[:end])


def test_answers_survive_the_wire() -> None:
    answer = Sampled(3, (SampledToken(5, "é", "stop"),), (1, 2))
    assert decode_answer(encode(answer)) == answer


@pytest.mark.parametrize(
    ("header_bytes", "payload_bytes"),
    [(0, 0), (MAX_HEADER_BYTES + 1, 0), (1, MAX_PAYLOAD_BYTES + 1)],
)
def test_lengths_beyond_the_bounds_are_refused(
    header_bytes: int, payload_bytes: int
) -> None:
    prefix = header_bytes.to_bytes(4, "big") + payload_bytes.to_bytes(4, "big")
    with pytest.raises(DecodeError):
        decode_prefix(prefix)


@given(st.binary(max_size=80))
def test_any_header_is_refused_or_canonical(data: bytes) -> None:
    try:
        request = decode_request(data)
    except DecodeError:
        return
    assert encode(request) == data

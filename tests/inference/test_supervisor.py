"""Supervised workers: answers, deaths, restarts, and no process left behind."""

import os
import signal
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path

import pytest
import torch
import trio
import trio.testing
from msgspec.structs import replace
from tiny_models import HIDDEN, LAYERS, POSITIONS, load_reference, save_model

from inference.device.memory import PAGE_TOKENS
from inference.errors import (
    BadAnswer,
    BadPrompt,
    BadRequest,
    Busy,
    UnknownSession,
    WorkerFailed,
    WorkerLost,
)
from inference.sampling.params import ChatMessage, SamplingParams
from inference.weights.model_info import Model, load_model
from inference.weights.pieces import Manifest
from inference.worker import supervisor as supervisor_module
from inference.worker.link import MAX_CALLS
from inference.worker.requester_worker import RequesterWorker
from inference.worker.stage_worker import StageWorker
from inference.worker.supervisor import WorkerState, supervise

TOKEN_BYTES = 4 * HIDDEN
DEADLINE_S = 120
"""Against hangs only; everything waits for events."""


def trio_test(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(function)
    def run(**fixtures: object) -> None:
        async def bounded() -> None:
            with trio.fail_after(DEADLINE_S):
                await function(**fixtures)

        trio.run(bounded)

    return run


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), tokenizer=True)


@pytest.fixture(scope="module")
def model(directory: Path) -> Model:
    return load_model(directory)


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE_S", 0.01)


def build_null(directory: Path, model: Model) -> StageWorker:
    return StageWorker(directory, model, (0, 1), null=True)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@trio_test
async def test_answers_through_processes_equal_generate(
    directory: Path, model: Model
) -> None:
    half = LAYERS // 2
    requester = RequesterWorker(directory, model)
    stages = [
        StageWorker(directory, model, (0, half)),
        StageWorker(directory, model, (half, LAYERS)),
    ]
    async with supervise(requester), supervise(stages[0]), supervise(stages[1]):
        for worker in (requester, *stages):
            await worker.wait_ready()
        assert [stage.status.layers for stage in stages] == [(0, 2), (2, 4)]
        assert stages[0].status.bytes_read > 0
        prompt = await requester.encode_chat([ChatMessage("user", "the layers")])
        params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
        await requester.open(b"s", params, prompt)
        for stage in stages:
            await stage.open(b"s", POSITIONS)
        ids, position, tokens = [], 0, prompt
        while True:
            hidden = await requester.embed(b"s", position, tokens)
            for stage in stages:
                hidden = await stage.forward(b"s", position, hidden, len(tokens))
            step = await requester.sample(b"s", hidden, len(tokens))
            ids.append(step.token_id)
            if step.finish_reason:
                assert step.embedding == b""
                break
            position, tokens = position + len(tokens), [step.token_id]
            ahead = await requester.embed(b"s", position, tokens)
            assert step.embedding == ahead
        with pytest.raises(BadAnswer):
            await requester.sample(b"s", hidden[:-1], 1)
        with pytest.raises(BadPrompt):
            await requester.encode_text("")
        for worker in (requester, *stages):
            await worker.close(b"s")
        with pytest.raises(UnknownSession):
            await stages[0].forward(b"s", 0, bytes(TOKEN_BYTES), 1)
    expected = load_reference(directory).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
    )[0, len(prompt) :]
    assert ids == expected.tolist()


@trio_test
async def test_a_worker_killed_in_a_call_is_lost_and_comes_back(
    directory: Path, model: Model
) -> None:
    async with supervise(build_null(directory, model)) as worker:
        await worker.wait_ready()
        pid = worker.pid
        # Stopped, it cannot answer before it is killed.
        os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(WorkerLost):
                    await worker.forward(b"s", 0, bytes(TOKEN_BYTES), 1)

            for _ in range(3):
                nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.01)
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await worker.forward(b"s", 0, bytes(TOKEN_BYTES), 1)
        assert not worker.ready.is_set()
        await worker.wait_ready()
        assert worker.ready.is_set()
        assert worker.pid != pid
        assert worker.status.restarts == 1
        assert not is_alive(pid)
        hidden = os.urandom(TOKEN_BYTES)
        assert await worker.forward(b"s", 0, hidden, 1) == hidden


@trio_test
async def test_calls_before_ready_are_refused_at_once(
    directory: Path, model: Model
) -> None:
    worker = build_null(directory, model)
    with pytest.raises(WorkerLost):
        await worker.open(b"s", 1)
    await worker.close(b"s")
    assert worker.status.state is WorkerState.STARTING
    assert worker.pid is None


@trio_test
async def test_no_process_is_left_behind(directory: Path, model: Model) -> None:
    async with supervise(build_null(directory, model)) as worker:
        await worker.wait_ready()
        pid = worker.pid
        assert is_alive(pid)
    assert not is_alive(pid)
    assert worker.pid is None


@trio_test
async def test_a_stuck_worker_is_killed_after_the_grace(
    directory: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "GRACE_S", 0.01)
    async with supervise(build_null(directory, model)) as worker:
        await worker.wait_ready()
        pid = worker.pid
        # A stopped process takes no SIGTERM.
        os.kill(pid, signal.SIGSTOP)
    assert not is_alive(pid)


@trio_test
async def test_a_cancelled_start_leaves_nothing(directory: Path, model: Model) -> None:
    async with supervise(StageWorker(directory, model, (0, 1))) as worker:
        while worker.pid is None:
            await trio.sleep(0)
        pid = worker.pid
    assert not is_alive(pid)


@trio_test
async def test_a_model_that_cannot_be_served_is_not_tried_again(
    directory: Path, model: Model
) -> None:
    worker = StageWorker(directory, model, (LAYERS, LAYERS + 1))
    async with supervise(worker):
        with pytest.raises(WorkerFailed, match="of a model of 4"):
            await worker.wait_ready()
        with pytest.raises(WorkerFailed):
            await worker.open(b"s", 1)
        assert worker.status.state is WorkerState.FAILED
        assert worker.status.restarts == 0
        assert worker.pid is None


@trio_test
async def test_weights_that_changed_since_the_manifest_are_refused(
    directory: Path, model: Model
) -> None:
    pieces = [
        piece if piece.name != "model.layers.0.mlp.up_proj.weight" else spoil(piece)
        for piece in model.manifest.pieces
    ]
    other = replace(model, manifest=Manifest(tuple(pieces)))
    async with supervise(StageWorker(directory, other, (0, 1))) as worker:
        with pytest.raises(WorkerFailed, match="not what the manifest says"):
            await worker.wait_ready()


def spoil(piece):
    return replace(piece, parts=(bytes(32),) * len(piece.parts))


@trio_test
async def test_calls_are_bounded(directory: Path, model: Model) -> None:
    async with supervise(build_null(directory, model)) as worker:
        await worker.wait_ready()
        os.kill(worker.pid, signal.SIGSTOP)
        done = 0

        async def call() -> None:
            nonlocal done
            await worker.forward(b"s", 0, bytes(TOKEN_BYTES), 1)
            done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(MAX_CALLS):
                nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(Busy):
                await worker.forward(b"s", 0, bytes(TOKEN_BYTES), 1)
            # Closing makes room and is never refused.
            await worker.close(b"s")
            os.kill(worker.pid, signal.SIGCONT)
        assert done == MAX_CALLS


@trio_test
async def test_busy_is_said_at_once_and_a_death_gives_everything_back(
    directory: Path, model: Model
) -> None:
    position_bytes = 2 * 2 * 8 * 4
    budget = 2 * PAGE_TOKENS * position_bytes
    stage = StageWorker(directory, model, (0, 1), kv_budget_bytes=budget)
    async with supervise(stage):
        await stage.wait_ready()
        assert stage.status.engine == "ragged"
        assert stage.status.position_bytes == position_bytes
        await stage.open(b"a", PAGE_TOKENS + 1)
        assert stage.status.used_bytes == budget
        # Stopped, as if in a long pass: the node need not ask it.
        os.kill(stage.pid, signal.SIGSTOP)
        with pytest.raises(Busy):
            await stage.open(b"b", 1)
        await stage.close(b"a")
        assert stage.status.used_bytes == 0
        os.kill(stage.pid, signal.SIGCONT)
        await stage.open(b"b", 2 * PAGE_TOKENS)
        with pytest.raises(BadRequest):
            await stage.open(b"b", 1)
        os.kill(stage.pid, signal.SIGKILL)
        while stage.ready.is_set():
            await trio.sleep(0.01)
        await stage.wait_ready()
        assert stage.status.used_bytes == 0
        await stage.open(b"c", 2 * PAGE_TOKENS)


@trio_test
async def test_a_cancelled_caller_closes_its_session(
    directory: Path, model: Model
) -> None:
    worker = StageWorker(directory, model, (0, 1))
    async with supervise(worker):
        await worker.wait_ready()
        await worker.open(b"s", 4)
        with trio.CancelScope() as scope:
            scope.cancel()
            await worker.close(b"s")
        with pytest.raises(UnknownSession):
            await worker.forward(b"s", 0, bytes(TOKEN_BYTES), 1)


@trio_test
async def test_cancelled_calls_do_not_disturb_the_others(
    directory: Path, model: Model
) -> None:
    async with supervise(build_null(directory, model)) as worker:
        await worker.wait_ready()
        # Larger than the socket's buffers: cancelled in the middle of a frame.
        tokens = 64 * 1024
        os.kill(worker.pid, signal.SIGSTOP)
        for _ in range(3):
            with trio.move_on_after(0):
                await worker.forward(b"a", 0, bytes(tokens * TOKEN_BYTES), tokens)
            with trio.move_on_after(0.01):
                await worker.forward(b"a", 0, bytes(tokens * TOKEN_BYTES), tokens)
        os.kill(worker.pid, signal.SIGCONT)
        hidden = os.urandom(2 * TOKEN_BYTES)
        assert await worker.forward(b"b", 0, hidden, 2) == hidden


@trio_test
async def test_concurrent_sessions_get_their_own_answers(
    directory: Path, model: Model
) -> None:
    async with supervise(build_null(directory, model)) as worker:
        await worker.wait_ready()

        async def run(session: int) -> None:
            hidden = session.to_bytes(1, "big") * TOKEN_BYTES * (1 + session % 3)
            for _ in range(10):
                tokens = 1 + session % 3
                assert await worker.forward(b"s", 0, hidden, tokens) == hidden

        async with trio.open_nursery() as nursery:
            for session in range(30):
                nursery.start_soon(run, session)

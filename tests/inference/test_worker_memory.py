"""Memory that really runs out in a worker, and a worker that the system kills."""

import os
import signal
from pathlib import Path

import pytest
import torch
import transformers as hf
import trio
from hypothesis import given
from hypothesis import strategies as st
from session_world import open_world
from tiny_models import load_reference, save_tokenizer

from inference.device.memory import WORKER_BYTES
from inference.device.memory_limit import DataUse, compute_limit, read_use
from inference.weights.model_info import load_model
from inference.worker.requester_worker import RequesterWorker
from inference.worker.stage_worker import StageWorker
from inference.worker.supervisor import WorkerState, supervise

DEADLINE_S = 120
"""Against hangs only; everything waits for events."""
HIDDEN = 32
POSITIONS = 256
WIDTH = 131_072
"""Of the middle of a layer: a prompt of 100 tokens takes 52 MB there, more than the
allocator would ever keep for later, and one of 8 tokens 4 MB."""
LONG, SHORT = 100, 8
GROWTH_BYTES = 24 * 1024 * 1024

sizes = st.integers(0, 2**40)


@given(sizes, sizes, sizes)
def test_a_worker_may_touch_what_is_free(promised: int, touched: int, free: int):
    use = DataUse(max(promised, touched), touched)
    limit = compute_limit(use, free, None)
    assert limit >= use.promised + WORKER_BYTES
    if free >= use.untouched + WORKER_BYTES:
        assert limit - touched == free
    assert compute_limit(use, free, 7) == use.promised + 7


def test_what_a_process_has_is_read(tmp_path: Path) -> None:
    use = read_use()
    assert use is not None
    assert use.touched > 0
    assert use.promised > 1024 * 1024
    assert read_use(tmp_path / "status") is None
    (tmp_path / "status").write_text("Name: x\n")
    assert read_use(tmp_path / "status") is None


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of one wide layer."""
    torch.manual_seed(1)
    config = hf.LlamaConfig(
        vocab_size=300,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    path = tmp_path_factory.mktemp("wide")
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    save_tokenizer(path)
    return path


def generate(directory: Path, prompt: list[int], tokens: int) -> list[int]:
    answer = load_reference(directory).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
    )
    return answer[0, len(prompt) :].tolist()


async def run_out_and_be_killed(directory: Path) -> None:
    model = load_model(directory)
    requester = RequesterWorker(directory, model)
    poor = StageWorker(directory, model, (0, 1), growth_bytes=GROWTH_BYTES)
    rich = StageWorker(directory, model, (0, 1))
    async with (
        supervise(requester),
        supervise(poor),
        supervise(rich),
        open_world(hops=1) as world,
    ):
        for worker in (requester, poor, rich):
            await worker.wait_ready()
        world.hidden_size, world.max_positions = HIDDEN, POSITIONS
        world.worker, world.can_recover = requester, True
        spare = world.add_spare(0)
        for hop, stage in ((world.hops[0], poor), (spare, rich)):
            hop.stage = stage
            hop.start_service()
        await world.nursery.start(spare.run)
        first = poor.pid

        # A short prompt fits, is alone with a long one that does not, and stays.
        long, short = list(range(1, LONG + 1)), list(range(9, 9 + SHORT))
        seen: list[int] = []
        was_lost = trio.Event()

        async def ask_short() -> None:
            session = world.session(short, 24)

            async def emit(event) -> None:
                seen.append(event.token_id)
                if len(seen) == 4:
                    await was_lost.wait()

            await session.run(emit)
            assert session.summary.recoveries == 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_short)
            while len(seen) < 4:
                await trio.sleep(0.01)
            answer: list[int] = []
            session = world.session(long, 12)
            await session.run(append_to(answer))
            was_lost.set()
        assert answer == generate(directory, long, 12)
        assert seen == generate(directory, short, 24)
        assert session.summary.recoveries == 1
        assert session.summary.hops[0].plan.node_name == spare.name
        assert (poor.pid, poor.status.restarts) == (first, 0)
        assert poor.status.state is WorkerState.READY
        assert world.hops[0].faults == world.faults == []
        # What did not come is not paid: the lost step cost nothing.
        retired = session.summary.hops[-1]
        assert (retired.plan.node_name, retired.units) == (world.hops[0].name, 0)
        await give_back(poor, rich)

        # The system's killer takes the one with more memory, in the middle.
        answer = []
        session = world.session(short, 24)
        take = append_to(answer)

        async def kill(event) -> None:
            await take(event)
            if len(answer) == 6:
                os.kill(poor.pid, signal.SIGKILL)

        await session.run(kill)
        assert answer == generate(directory, short, 24)
        assert session.summary.recoveries == 1
        assert session.summary.hops[0].plan.node_name == spare.name
        await give_back(poor, rich)
        await poor.wait_ready()
        assert poor.pid != first


def append_to(answer: list[int]):
    async def emit(event) -> None:
        answer.append(event.token_id)

    return emit


async def give_back(*stages: StageWorker) -> None:
    """Wait until nothing is promised to any session."""
    while any(stage.status.used_bytes for stage in stages):
        await trio.sleep(0.01)


def test_the_node_stays_and_the_session_moves(directory: Path) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_S):
            await run_out_and_be_killed(directory)

    trio.run(bounded)

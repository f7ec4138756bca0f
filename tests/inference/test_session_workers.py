"""Sessions over real worker processes: the same tokens as one process gives."""

import os
import signal
from pathlib import Path

import pytest
import torch
import trio
from session_world import UNIT_PRICE, collect, open_world
from tiny_models import HIDDEN, LAYERS, POSITIONS, load_reference, save_model

from inference.device.memory import PAGE_TOKENS
from inference.errors import WorkerLost
from inference.protocol.codes import AbortCode
from inference.protocol.errors import HopAborted
from inference.sampling.params import ChatMessage
from inference.weights.model_info import load_model
from inference.worker.requester_worker import RequesterWorker
from inference.worker.stage_worker import StageWorker
from inference.worker.supervisor import supervise

DEADLINE_S = 120
"""Against hangs only; everything waits for events."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), tokenizer=True)


def generate(directory, prompt, tokens):
    answer = load_reference(directory).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
    )
    return answer[0, len(prompt) :].tolist()


async def ask_and_kill(directory):
    model = load_model(directory)
    requester = RequesterWorker(directory, model)
    stages = [
        StageWorker(directory, model, (0, LAYERS // 2)),
        StageWorker(directory, model, (LAYERS // 2, LAYERS)),
        StageWorker(directory, model, (LAYERS // 2, LAYERS)),
    ]
    async with (
        supervise(requester),
        supervise(stages[0]),
        supervise(stages[1]),
        supervise(stages[2]),
        open_world(hops=2) as world,
    ):
        for worker in (requester, *stages):
            await worker.wait_ready()
        world.hidden_size, world.max_positions = HIDDEN, POSITIONS
        world.worker = requester
        for hop, stage in zip(world.hops, stages[:2], strict=True):
            hop.stage = stage
            hop.start_service()
        prompt = await requester.encode_chat([ChatMessage("user", "the layers")])
        expected = generate(directory, prompt, 40)

        # Alone, and three at once over the same channels.
        session = world.session(prompt, 40)
        events = await collect(session)
        assert [event.token_id for event in events] == expected
        assert all(hop.compute_us > 0 for hop in session.summary.hops)
        async with trio.open_nursery() as nursery:
            for tokens in (10, 20, 30):
                nursery.start_soon(check, world, prompt, expected[:tokens])
        await wait_for(lambda: not any(hop.service.sessions for hop in world.hops))
        assert world.get_paid() == world.get_sent()

        spare = world.add_spare(1)
        spare.stage = stages[2]
        spare.start_service()
        await world.nursery.start(spare.run)
        await chat(directory, world)

        # A stage is killed in mid-answer.
        before = world.get_sent()[0]
        session = world.session(prompt, 40)

        async def emit(event):
            if event.step == 5:
                os.kill(stages[1].pid, signal.SIGKILL)

        with pytest.raises(HopAborted) as caught:
            await session.run(emit)
        assert caught.value.code == AbortCode.STAGE_LOST
        assert caught.value.peer_id == world.hops[1].key.public_key
        made = session.summary
        assert 6 <= made.tokens_out < 40
        paid = world.get_sent()[0] - before
        assert paid == made.hops[0].units * UNIT_PRICE
        await wait_for(lambda: not any(hop.service.sessions for hop in world.hops))

        # It comes back.  The first hop may have delivered the step that was lost.
        await wait_for(lambda: stages[1].ready.is_set())
        arrears = [get_owed(hop) for hop in world.hops]
        assert arrears[0] in (0, made.hops[0].unpaid_units)
        assert arrears[1] == 0
        events = await collect(world.session(prompt, 12, arrears=arrears))
        assert [event.token_id for event in events] == expected[:12]

        # With another worker for its layers nobody notices that it is killed.
        world.can_recover = True
        session = world.session(prompt, 40)
        seen = []

        async def kill(event):
            seen.append(event.token_id)
            if len(seen) == 20:
                os.kill(stages[1].pid, signal.SIGKILL)

        await session.run(kill)
        assert seen == expected
        assert session.summary.recoveries == 1


async def chat(directory, world):
    """Take some turns, the last one with a hop that has to fetch those before it."""
    giver, taker = world.hops[1], world.spares[0]
    assert giver.stage.shares
    world.prefix_secret = b"secret"
    history, cached = [5 + number % 7 for number in range(30)], 0
    for turn in range(3):
        if turn == 2:
            world.hops[1] = taker
            world.sources[taker.key.public_key] = giver.key.public_key
            # As if it computed slowly: a second for a position.
            taker.service.pace.note(32, 32_000_000)
        session = world.session(history, 15)
        answer = [event.token_id for event in await collect(session)]
        assert answer == generate(directory, history, 15)
        assert session.summary.cached_tokens == cached
        history = [*history, *answer, 9, 9, 9]
        # The last token of an answer was chosen and never computed.
        cached = (len(history) - 4) // PAGE_TOKENS * PAGE_TOKENS
        await wait_for(lambda: not any(hop.service.sessions for hop in world.hops))
    assert taker.service._taker.taken == giver.service._giver.given > 0
    assert not world.faults
    assert not taker.faults
    world.hops[1], world.prefix_secret = giver, b""


def get_owed(hop):
    """Return the units that a hop has delivered and not been paid."""
    billed = hop.payee.standings[hop.channel_id].billed_units
    return billed - hop.payee.get_paid(hop.channel_id) // UNIT_PRICE


async def check(world, prompt, expected):
    events = await collect(world.session(prompt, len(expected)))
    assert [event.token_id for event in events] == expected


async def wait_for(condition):
    while not condition():
        await trio.sleep(0.01)


def test_answers_over_processes_and_a_killed_stage(directory: Path) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_S):
            await ask_and_kill(directory)

    trio.run(bounded)


def test_dead_requester_worker_is_an_error_at_once(directory: Path) -> None:
    async def bounded() -> None:
        model = load_model(directory)
        async with open_world(hops=1) as world:
            # Never started.
            world.worker = RequesterWorker(directory, model)
            with pytest.raises(WorkerLost):
                await collect(world.session([1, 2, 3]))
            assert world.get_sent() == [0]

    trio.run(bounded)

"""Texts that are only encoded: one step, whole, and paid before it is computed."""

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import transformers as hf
import trio
from session_world import (
    UNIT_PRICE,
    HopNode,
    SumSampler,
    collect,
    compute_prefill_units,
    embed,
    open_world,
    run,
)
from tiny_models import HIDDEN, LAYERS, VOCAB, save_encoder

from inference.engine.stage import StageEngine
from inference.errors import (
    BadPrompt,
    BadRequest,
    BadWeights,
    UnsupportedModel,
    WorkerLost,
)
from inference.hop.ports import HopLimits
from inference.model.local_pipeline import EncoderPipeline, load_stages
from inference.model.pooling import Pooling, read_pooling
from inference.protocol.codec import Codec
from inference.protocol.codes import AbortCode, RefuseCode
from inference.protocol.errors import HopAborted, HopLost, HopRefused
from inference.protocol.messages import Abort, Accept, Data
from inference.requester.text_encoder import TextEncoder
from inference.sampling.params import ChatMessage, Choice, SampledToken, SamplingParams
from inference.session.driver import RequesterSession
from inference.weights.model_info import load_model
from inference.worker.requester_worker import RequesterWorker
from inference.worker.stage_worker import StageWorker
from inference.worker.supervisor import supervise

PROMPT = [(7 * i + 3) % 97 for i in range(300)]
"""Longer than two steps of a prompt."""


class MeanSampler(SumSampler):
    """The requester's worker of an encoder: the vector is the mean of all rows."""

    async def choose(self, session_id, hidden, tokens, drafts, wanted):
        await super().choose(session_id, hidden, tokens, drafts, wanted)
        rows = np.frombuffer(hidden, np.float32).reshape(tokens, -1)
        vector = rows.mean(axis=0).tobytes()
        return Choice((SampledToken(0, "", "stop", vector),))


def make_encoder(world):
    world.worker = MeanSampler()
    for hop in (*world.hops, *world.spares):
        hop.is_encoder = True


@pytest.mark.parametrize("tokens", [1, 128, 300])
def test_a_text_is_one_step_that_is_paid_ahead(tokens):
    async def test():
        async with open_world() as world:
            make_encoder(world)
            session = world.session(PROMPT[:tokens], 0)
            (event,) = await collect(session)
            await world.rest()

            rows = embed(0, PROMPT[:tokens])
            for hop in world.hops:
                rows = hop.stage.compute(rows)
            assert event.vector == rows.mean(axis=0).tobytes()
            assert event.finish_reason == "stop"
            assert [hop.stage.forwards for hop in world.hops] == [1] * 4
            units = compute_prefill_units(tokens)
            assert world.get_paid() == world.get_sent() == [units * UNIT_PRICE] * 4
            assert session.summary.tokens_in == tokens
            for hop in world.hops:
                (account,) = hop.payee.closed
                assert [r.tokens for r in account.receipts] == [tokens]
                assert account.billed_units == account.claimed_units == units

    run(test)


def test_another_text_in_its_place_is_paid_ahead_as_well():
    said = []

    class Teller(HopNode):
        def tamper(self, message, body):
            if isinstance(message, Accept):
                said.append(message.prepaid_steps)
            return message, body

    async def test():
        async with open_world(1, {0: Teller}) as world:
            make_encoder(world)
            await collect(world.session(PROMPT, 0))
            await world.rest()

    run(test)
    # Not one step: the first text of the session would pay for the second one.
    assert said == [HopLimits().all_ahead]


def test_nothing_is_computed_for_whoever_does_not_pay_ahead():
    async def test():
        async with open_world() as world:
            make_encoder(world)

            def keep_pay(message, body):
                return None if type(message).__name__ == "Pay" else (message, body)

            world.tamper = keep_pay
            with pytest.raises((HopAborted, HopLost)):
                await collect(world.session(PROMPT, 0))
            await world.rest()
            assert not any(hop.stage.forwards for hop in world.hops)
            assert world.get_paid() == [0] * 4

    run(test)


def test_one_step_of_an_answer_is_paid_ahead_as_well():
    async def test():
        async with open_world() as world:

            def keep_pay(message, body):
                return None if type(message).__name__ == "Pay" else (message, body)

            world.tamper = keep_pay
            with pytest.raises((HopAborted, HopLost)):
                await collect(world.session(PROMPT[:20], 1))
            await world.rest()
            assert not any(hop.stage.forwards for hop in world.hops)

    run(test)


@pytest.mark.parametrize(("is_encoder", "max_tokens"), [(True, 4), (False, 0)])
def test_encoders_take_texts_and_decoders_do_not(is_encoder, max_tokens):
    async def test():
        async with open_world() as world:
            for hop in world.hops:
                hop.is_encoder = is_encoder
            with pytest.raises(HopRefused, match="and nothing else") as caught:
                await collect(world.session(PROMPT[:5], max_tokens))
            assert caught.value.code == RefuseCode.TERMS
            await world.rest()
            assert world.get_paid() == [0] * 4

    run(test)


class Mortal(HopNode):
    """Has its own end of a text."""

    way = ""

    def tamper(self, message, body):
        if isinstance(message, Data):
            match self.way:
                case "dies":
                    self.kill()
                    return None
                case "sends half":
                    return message, body[: len(body) // 2]
                case "aborts":
                    return Abort(message.session, AbortCode.INTERNAL, "no", None), b""
                case "forges":
                    return msgspec.structs.replace(message, receipt=None), body
        return message, body


@pytest.mark.parametrize("way", ["stage", "dies", "sends half", "aborts", "forges"])
@pytest.mark.parametrize("index", range(3))
def test_a_text_goes_another_way_and_nobody_is_paid_twice(index, way):
    async def test():
        kind = type("Mortal", (Mortal,), {"way": way})
        async with open_world(3, {index: kind}, spares=range(3)) as world:
            make_encoder(world)
            if way == "stage":
                world.hops[index].stage.is_dead = False
                world.hops[index].stage.forward = die
            session = world.session(PROMPT, 0)
            (event,) = await collect(session)
            others = world.hops[:index] + world.hops[index + 1 :]
            price = UNIT_PRICE * compute_prefill_units(len(PROMPT))
            await world.rest()
            if (way, index) == ("forges", 2):
                # The last hop's receipt goes another way.
                assert not session.summary.recoveries
                return
            # Whoever loses a neighbour that is there is doubted first.
            is_doubted = way == "aborts" and index < 2
            assert session.summary.recoveries == (4 if is_doubted else 1)
            if is_doubted:
                return
            for hop in (*others, world.spares[index]):
                assert world.purse.get(hop.channel_id).paid_total == price
                assert hop.stage.forwards == 1
                assert not hop.payee.standings[hop.channel_id].arrears_units
            # The vector is that of a route without loss.
            world.hops[index] = world.spares[index]
            (again,) = await collect(world.session(PROMPT, 0))
            assert again.vector == event.vector

    run(test)


async def die(*args):
    raise WorkerLost("the stage is dead")


def test_texts_travel_without_loss():
    async def test():
        async with open_world() as world:
            make_encoder(world)
            plan = dataclasses.replace(world.plan(PROMPT, 0), codec=Codec.INT8)
            session = RequesterSession(world.ports, plan, SamplingParams())
            with pytest.raises(HopRefused, match="without loss") as caught:
                await collect(session)
            assert caught.value.code == RefuseCode.TERMS

    run(test)


# Real layers


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("bert"))


def encode_whole(directory: Path, token_ids: list[int]) -> torch.Tensor:
    """Return the mean of an undivided model's rows, normalised."""
    model = hf.AutoModel.from_pretrained(directory).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.inference_mode():
        rows = model(input_ids=torch.tensor([token_ids])).last_hidden_state[0]
        return torch.nn.functional.normalize(rows.mean(dim=0), dim=0)


def test_real_workers_give_the_undivided_vector(directory: Path) -> None:
    async def ask() -> None:
        model = load_model(directory)
        assert model.info.is_encoder
        requester = RequesterWorker(directory, model)
        stages = [
            StageWorker(directory, model, (a, a + LAYERS // 2))
            for a in (0, LAYERS // 2)
        ]
        async with (
            supervise(requester),
            supervise(stages[0]),
            supervise(stages[1]),
            open_world(hops=2) as world,
        ):
            for worker in (requester, *stages):
                await worker.wait_ready()
            world.hidden_size, world.max_positions = HIDDEN, 256
            world.worker = requester
            for hop, stage in zip(world.hops, stages, strict=True):
                hop.stage, hop.is_encoder = stage, True
                hop.start_service()
            token_ids = await requester.encode_text("the layers of a model " * 30)
            assert len(token_ids) > 128
            (event,) = await collect(world.session(token_ids, 0))
            expected = encode_whole(directory, token_ids)
            assert event.vector == expected.numpy().tobytes()
            with pytest.raises(BadPrompt, match="does not answer"):
                await requester.encode_chat([ChatMessage("user", "hello")])

    trio.run(ask)


def test_a_stage_takes_whole_texts_only(directory: Path) -> None:
    engine = StageEngine.load(directory, range(1, 3))
    assert engine.executor.name == "text"
    hidden = torch.randn(1, 9, HIDDEN)
    engine.open_session(b"text", 9)
    first = engine.forward(b"text", 0, hidden)
    assert torch.equal(engine.forward(b"text", 0, hidden), first)
    engine.open_session(b"more", 18)
    engine.forward(b"more", 0, hidden)
    with pytest.raises(BadRequest, match="from its beginning"):
        engine.forward(b"more", 9, hidden)


def test_the_encoder_of_a_requester(directory: Path) -> None:
    encoder = TextEncoder.load(directory, 256)
    params = SamplingParams()
    text = tuple(range(5, 25))
    encoder.open_session(b"s", params, text)
    stages = load_stages(directory, (2,), LAYERS)
    with torch.inference_mode():
        hidden = encoder.embed(b"s", 0, text)
        for stage in stages:
            hidden = stage.run_layers(hidden)
    token = encoder.sample(b"s", hidden)
    assert token.embedding == encode_whole(directory, list(text)).numpy().tobytes()
    assert token.finish_reason == "stop"
    for position, ids in ((1, text), (0, text[1:])):
        with pytest.raises(BadRequest, match="as a whole"):
            encoder.embed(b"s", position, ids)
    for bad in ((), tuple(range(257)), (VOCAB,)):
        with pytest.raises(BadPrompt):
            encoder.open_session(b"t", params, bad)
    whole = EncoderPipeline(stages, encoder.part)
    assert torch.isfinite(whole.run(torch.tensor([text]))).all()


# What a directory says of its vectors


def write_modules(directory: Path, *types: str, pooling: str = "{}") -> None:
    entries = [
        f'{{"idx": {i}, "path": "{"1_Pooling" if "Pool" in t else ""}", "type": "{t}"}}'
        for i, t in enumerate(types)
    ]
    (directory / "modules.json").write_text(f"[{', '.join(entries)}]")
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(pooling)


def test_a_plain_directory_takes_the_mean(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == Pooling("mean", False, None)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("cls_token", "first"), ("mean_tokens", "mean"), ("max_tokens", "max"),
     ("lasttoken", "last")],
)  # fmt: skip
def test_modules_say_how_rows_become_a_vector(
    tmp_path: Path, name: str, mode: str
) -> None:
    types = ("a.Transformer", "a.Pooling", "a.Normalize")
    write_modules(tmp_path, *types, pooling=f'{{"pooling_mode_{name}": true}}')
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    assert read_pooling(tmp_path) == Pooling(mode, True, 64)
    rows = torch.tensor([[[3.0, 0.0], [1.0, 4.0]]])
    expected = {"first": [3, 0], "mean": [2, 2], "max": [3, 4], "last": [1, 4]}[mode]
    assert Pooling(mode).pool(rows).tolist() == expected
    assert float(Pooling(mode, True).pool(rows).norm()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("types", "pooling", "error"),
    [
        (("a.Transformer", "a.Dense"), "{}", UnsupportedModel),
        (("a.Transformer", "a.Pooling"), "{}", UnsupportedModel),
        (("a.Pooling",), '{"pooling_mode_weightedmean_tokens": true}',
         UnsupportedModel),
        (("a.Pooling",), '{"pooling_mode_cls_token": true, '
         '"pooling_mode_max_tokens": true}', UnsupportedModel),
        (("a.Pooling",), "[", BadWeights),
    ],
)  # fmt: skip
def test_other_modules_are_refused(tmp_path: Path, types, pooling, error) -> None:
    write_modules(tmp_path, *types, pooling=pooling)
    with pytest.raises(error):
        read_pooling(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[{}]", "[" * 100_000])
def test_damaged_module_lists_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(BadWeights):
        read_pooling(tmp_path)


def test_a_module_elsewhere_is_refused(tmp_path: Path) -> None:
    entry = '[{"path": "../x", "type": "a.Pooling"}]'
    (tmp_path / "modules.json").write_text(entry)
    with pytest.raises(BadWeights, match="elsewhere"):
        read_pooling(tmp_path)


@pytest.mark.parametrize("value", ["0", "-1", '"x"', "true", "1.5"])
def test_a_length_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(
        f'{{"max_seq_length": {value}}}'
    )
    with pytest.raises(BadWeights):
        read_pooling(tmp_path)

"""Models by name and layers by choice: what a node decides once it has the chain."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from msgspec.structs import replace

from chain.records.registration import RegistrationStatus
from chain.tree.following import Follow, Layers
from inference.device.device import SHARE, Device
from inference.device.hardware import Gpu, Hardware
from inference.device.memory import compute_stage_bytes
from inference.device.precision import Precision
from inference.errors import NotCertified
from inference.weights.model_info import Model, ModelInfo
from inference.weights.pieces import Manifest, Piece
from p2pchain.errors import ConfigError
from p2pchain.node.home.config import AUTO
from p2pchain.node.home.initialise import build_model_record
from p2pchain.node.home.precision_choice import PRECISION_FILE, load_precision
from p2pchain.node.home.profile import get_profile_hash
from p2pchain.node.hosting import model_host
from p2pchain.node.hosting.model_host import (
    CHOICE_FILE,
    ModelHost,
    find_model,
    load_choice,
)
from p2pchain.node.hosting.placement_watch import NEXT_FILE, save_next, take_next

LAYERS = 8
LAYER_BYTES = 4 * 10**6
ME = b"\1" * 32
FOLDER = Path("/model")


def make_model() -> Model:
    tensors = [
        Piece(f"model.layers.{n}.w", "F32", (10**6,), LAYER_BYTES, (bytes([n]) * 32,))
        for n in range(LAYERS)
    ]
    manifest, tokenizer = Manifest(tuple(tensors)), Manifest(())
    info = ModelInfo(
        name="tiny",
        architecture="LlamaForCausalLM",
        layers=LAYERS,
        hidden_size=8,
        vocab_size=8,
        max_positions=8,
        dtype="float32",
        weights_root=manifest.compute_root(),
        tokenizer_hash=tokenizer.compute_root(),
    )
    return Model(info, manifest, tokenizer)


MODEL = make_model()
RECORD = build_model_record(MODEL.info)
OTHER = build_model_record(replace(MODEL.info, name="o", weights_root=b"\2" * 32))


class ToyChain:
    """Heights, models and registrations."""

    def __init__(self) -> None:
        self.height = 1
        self.models = (OTHER, RECORD)
        self.registrations: list[SimpleNamespace] = []
        market = SimpleNamespace(
            list_models=lambda: self.models,
            list_registrations=lambda: self.registrations,
        )
        self.queries = SimpleNamespace(market=market)
        self.tree = SimpleNamespace(follow=Follow(frozenset()))
        self.grown = trio.Event()

    async def wait_height(self, height: int) -> None:
        while self.height < height:
            await self.grown.wait()

    def grow(self) -> None:
        self.height += 1
        self.grown.set()
        self.grown = trio.Event()

    def register(self, start: int, end: int, **changes) -> None:
        fields = {
            "model_id": RECORD.model_id,
            "start": start,
            "end": end,
            "account": b"\5" * 32,
            "status": RegistrationStatus.ACTIVE,
            "measured_us": 1000,
            "profile": get_profile_hash(RECORD),
        } | changes
        self.registrations.append(SimpleNamespace(**fields))


@pytest.fixture
def chain() -> ToyChain:
    """A chain with two models and no providers."""
    return ToyChain()


def build(chain, folder: Path, **changes) -> ModelHost:
    options = {
        "chain": chain,
        "weights": None,
        "folder": folder,
        "setting": "",
        "layers": AUTO,
        "with_ends": False,
        "local": MODEL,
        "local_folder": FOLDER,
        "certify": lambda directory: None,
        "account": ME,
        "is_behind": lambda: False,
    } | changes
    return ModelHost(**options)


def give_room(monkeypatch: pytest.MonkeyPatch, layers: float) -> None:
    """Let the machine have memory for so many layers."""
    room = compute_stage_bytes(int(layers * LAYER_BYTES))
    device = Device(int(room / SHARE) + 1, 1e9)
    monkeypatch.setattr(model_host, "measure_device", lambda: device)


def prepare(host: ModelHost) -> tuple[int, int] | None:
    ready = trio.run(host.prepare)
    assert ready.model is MODEL
    assert ready.directory == FOLDER
    assert host.stage == ""
    return ready.layers


def test_what_fits_and_is_most_needed_is_chosen(chain, tmp_path, monkeypatch) -> None:
    give_room(monkeypatch, 4.5)
    chain.register(0, 4)
    # None of these serves layers of this model now.
    chain.register(4, 8, status=RegistrationStatus.PENDING)
    chain.register(4, 8, account=ME)
    chain.register(4, 8, model_id=OTHER.model_id)
    assert prepare(build(chain, tmp_path)) == (4, 8)
    assert chain.tree.follow == Follow(
        frozenset(), (Layers(RECORD.model_id, 4, 8),)
    )  # fmt: skip


def test_a_choice_is_kept_as_long_as_it_fits(chain, tmp_path, monkeypatch) -> None:
    give_room(monkeypatch, 2)
    first = prepare(build(chain, tmp_path))
    chain.register(*first)
    chain.register(*first)
    assert prepare(build(chain, tmp_path)) == first
    assert load_choice(tmp_path, RECORD) == first
    give_room(monkeypatch, 1)
    second = prepare(build(chain, tmp_path))
    assert second[1] - second[0] == 1
    assert load_choice(tmp_path, OTHER) is None


# Other layers


def save_choice(folder: Path, start: int, end: int) -> None:
    """Leave behind what an earlier start chose."""
    saved = {"model_id": RECORD.model_id.hex(), "start": start, "end": end}
    (folder / CHOICE_FILE).write_text(json.dumps(saved))


def look(host: ModelHost, prefetch=None) -> object:
    """Let a node that is ready look around once, boldly."""
    watch = host.build_watch()
    watch._random = SimpleNamespace(random=lambda: 0.0)
    watch._prefetch = prefetch
    return trio.run(watch.look)


def test_layers_that_are_needed_more_are_taken_at_the_next_start(
    chain, tmp_path, monkeypatch
) -> None:
    give_room(monkeypatch, 4)
    save_choice(tmp_path, 0, 4)
    first = build(chain, tmp_path)
    assert prepare(first) == (0, 4)
    chain.register(0, 4, account=ME)
    for _ in range(3):
        chain.register(0, 4)
    chain.register(4, 8)
    shares = []

    async def prefetch(share) -> None:
        shares.append((share.layers, share.pin))

    assert look(first, prefetch).layers == range(4, 8)
    assert shares == [(range(4, 8), "")]
    # Nothing has changed yet; at the next start it goes there, once.
    assert load_choice(tmp_path, RECORD) == (0, 4)
    assert prepare(build(chain, tmp_path)) == (4, 8)
    assert prepare(build(chain, tmp_path)) == (4, 8)
    assert take_next(tmp_path, RECORD) is None


def test_what_was_announced_is_judged_again(chain, tmp_path, monkeypatch) -> None:
    give_room(monkeypatch, 4)
    save_choice(tmp_path, 0, 4)
    assert prepare(build(chain, tmp_path)) == (0, 4)
    chain.register(0, 4, account=ME)
    chain.register(4, 8)
    # It would leave layers that nobody else has.
    save_next(tmp_path, RECORD, (4, 8))
    assert prepare(build(chain, tmp_path)) == (0, 4)
    # Others have come there meanwhile.
    chain.register(0, 4)
    chain.register(4, 8)
    save_next(tmp_path, RECORD, (4, 8))
    assert prepare(build(chain, tmp_path)) == (0, 4)
    # It does not fit any more, is another model's, or damaged.
    chain.register(0, 4)
    chain.register(0, 4)
    save_next(tmp_path, RECORD, (2, 8))
    assert prepare(build(chain, tmp_path)) == (0, 4)
    save_next(tmp_path, OTHER, (4, 8))
    assert prepare(build(chain, tmp_path)) == (0, 4)
    (tmp_path / NEXT_FILE).write_text("[]")
    assert prepare(build(chain, tmp_path)) == (0, 4)
    save_next(tmp_path, RECORD, (4, 8))
    assert prepare(build(chain, tmp_path)) == (4, 8)


def test_who_is_no_provider_yet_or_behind_stays(chain, tmp_path, monkeypatch) -> None:
    give_room(monkeypatch, 4)
    save_choice(tmp_path, 0, 4)
    behind = [False]
    host = build(chain, tmp_path, is_behind=lambda: behind[0])
    assert prepare(host) == (0, 4)
    for _ in range(3):
        chain.register(0, 4)
    assert look(host) is None
    chain.register(0, 4, account=ME)
    # Layers in other numbers make other routes.
    for _ in range(9):
        chain.register(4, 8, profile=get_profile_hash(RECORD, Precision.INT8))
    behind[0] = True
    assert look(host) is None
    behind[0] = False
    assert look(host).layers == range(4, 8)


def test_only_chosen_layers_are_left(chain, tmp_path) -> None:
    host = build(chain, tmp_path, layers=(0, 4))
    assert prepare(host) == (0, 4)
    assert host.build_watch() is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"model_id": 1, "start": 0, "end": 1}', "null"]
)
def test_a_damaged_choice_is_made_anew(chain, tmp_path, monkeypatch, text) -> None:
    give_room(monkeypatch, 8)
    (tmp_path / CHOICE_FILE).write_text(text)
    assert prepare(build(chain, tmp_path)) == (0, LAYERS)
    saved = {"model_id": RECORD.model_id.hex(), "start": 3, "end": 99}
    (tmp_path / CHOICE_FILE).write_text(json.dumps(saved))
    assert load_choice(tmp_path, RECORD) is None


def test_where_no_layer_fits_it_says_so(chain, tmp_path, monkeypatch) -> None:
    give_room(monkeypatch, 0.5)
    with pytest.raises(ConfigError, match=r"no layer of tiny fits.* 4\.0 MB"):
        trio.run(build(chain, tmp_path).prepare)


def test_nothing_is_chosen_before_the_chain_is_here(
    chain, tmp_path, monkeypatch
) -> None:
    give_room(monkeypatch, 8)
    monkeypatch.setattr(model_host, "LOOK_S", 0.001)
    behind = [True]
    host = build(chain, tmp_path, is_behind=lambda: behind[0])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.prepare)
            while "which layers are needed" not in host.stage:
                await trio.sleep(0.001)
            # Now it sees the providers of the newest block.
            chain.register(0, 5)
            behind[0] = False

    trio.run(main)
    assert load_choice(tmp_path, RECORD) == (0, LAYERS)


VNNI = Hardware(frozenset({"avx512_vnni"}))
HALF = replace(RECORD, dtype="bfloat16")


def choose_precision(chain, folder: Path, monkeypatch, hardware, **changes):
    """Let a node choose, and return what it is ready with."""
    monkeypatch.setattr(model_host, "measure_hardware", lambda **_: hardware)
    options = {"layers": (0, 4), "precision": AUTO} | changes
    ready = trio.run(build(chain, folder, **options).prepare)
    return ready.precision


def test_a_precision_is_chosen_once(chain, tmp_path, monkeypatch) -> None:
    chain.models = (HALF,)
    first = choose_precision(chain, tmp_path, monkeypatch, VNNI)
    assert first is Precision.INT8 is load_precision(tmp_path, HALF)
    # Another processor, and others who serve something else, change nothing.
    chain.register(0, 8, profile=get_profile_hash(HALF, Precision.FP32))
    better = Hardware(frozenset({"amx_bf16"}))
    assert choose_precision(chain, tmp_path, monkeypatch, better) is Precision.INT8
    assert load_precision(tmp_path, OTHER) is None
    # A word in the settings does, of course.
    said = {"precision": "bf16"}
    chosen = choose_precision(chain, tmp_path, monkeypatch, VNNI, **said)
    assert chosen is Precision.BF16


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"precision": "int2"}'])
def test_a_damaged_precision_is_chosen_anew(chain, tmp_path, monkeypatch, text) -> None:
    (tmp_path / PRECISION_FILE).write_text(text)
    chosen = choose_precision(chain, tmp_path, monkeypatch, VNNI)
    assert chosen is Precision.NATIVE


def test_who_joins_serves_what_others_serve(chain, tmp_path, monkeypatch) -> None:
    chain.models = (HALF,)
    chain.register(0, 8, profile=get_profile_hash(HALF, Precision.FP32))
    chain.register(0, 4, profile=get_profile_hash(HALF, Precision.INT8))
    chain.register(0, 8, profile=b"\7" * 32)
    chain.register(0, 8, account=ME)
    # No processor here does int4 well, so it does not count.
    chain.register(0, 8, profile=get_profile_hash(HALF, Precision.INT4))
    chain.register(0, 8, profile=get_profile_hash(HALF, Precision.INT4))
    chosen = choose_precision(chain, tmp_path / "a", monkeypatch, VNNI)
    assert chosen is Precision.FP32
    # A gateway computes nothing: it takes what there is most of.
    only_buy = {"layers": None, "with_ends": True}
    bought = choose_precision(
        chain, tmp_path / "b", monkeypatch, Hardware(), **only_buy
    )
    assert bought is Precision.INT4


def test_layers_of_another_precision_fill_no_gap(chain, tmp_path, monkeypatch) -> None:
    give_room(monkeypatch, 4)
    chain.register(0, 4, profile=get_profile_hash(RECORD, Precision.INT8))
    chain.register(4, 8)
    assert prepare(build(chain, tmp_path)) == (0, 4)


def test_layers_that_fit_into_a_gpu_are_chosen(chain, tmp_path, monkeypatch) -> None:
    give_room(monkeypatch, 1)
    free = int(compute_stage_bytes(6 * LAYER_BYTES) / SHARE) + 1
    gpu = Gpu("toy", (9, 0), 2 * free, free, 1e12)
    monkeypatch.setattr(
        model_host, "measure_hardware", lambda **_: Hardware(gpus=(gpu,))
    )
    start, end = prepare(build(chain, tmp_path))
    assert end - start == 6


def test_layers_that_the_model_has_not_are_refused(chain, tmp_path) -> None:
    assert prepare(build(chain, tmp_path, layers=(2, 8))) == (2, 8)
    with pytest.raises(ConfigError, match="tiny has 8"):
        trio.run(build(chain, tmp_path, layers=(2, 9)).prepare)


def test_a_gateway_follows_all_layers(chain, tmp_path) -> None:
    assert prepare(build(chain, tmp_path, layers=None, with_ends=True)) is None
    assert chain.tree.follow.layers == (Layers(RECORD.model_id, 0, LAYERS),)


def test_a_model_is_found_by_name_id_or_content() -> None:
    records = (OTHER, RECORD)
    assert find_model(records, "tiny") is RECORD
    assert find_model(records, RECORD.model_id.hex()) is RECORD
    assert find_model(records, "tin") is None
    assert find_model(records, "", MODEL) is RECORD
    assert find_model((OTHER,), "", MODEL) is None


class ToyFetcher:
    """Has everything at once."""

    def __init__(self) -> None:
        self.shares: list[object] = []

    async def obtain(self, share) -> Model:
        self.shares.append(share)
        return MODEL

    async def ensure(self, share) -> None:
        self.shares.append(share)

    def get_folder(self, model_id: bytes) -> Path:
        return Path("/cache") / model_id.hex()


def test_a_name_that_the_chain_does_not_have_yet_is_waited_for(
    chain, tmp_path, caplog
) -> None:
    weights, probed = ToyFetcher(), []
    host = build(
        chain,
        tmp_path,
        weights=weights,
        local=None,
        local_folder=None,
        setting="tiny",
        layers=(2, 4),
        certify=probed.append,
    )
    chain.models = (OTHER,)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            while "no model tiny yet (it has: o)" not in caplog.text:
                await trio.sleep(0.001)
            chain.models = (OTHER, RECORD)
            chain.grow()

    async def use() -> None:
        ready = await host.prepare()
        assert ready.directory == Path("/cache") / RECORD.model_id.hex()
        await ready.prepare()

    trio.run(main)
    first, share, again = weights.shares
    # The configuration alone, to see whether the model can be divided.
    assert dataclasses.astuple(first)[1:] == (None, False, "")
    assert probed == [Path("/cache") / RECORD.model_id.hex()]
    assert share == again
    assert dataclasses.astuple(share)[1:] == (range(2, 4), False, "own")


def test_a_model_that_cannot_be_divided_is_not_fetched(chain, tmp_path) -> None:
    def refuse(directory: Path) -> None:
        raise NotCertified("it cannot be divided")

    weights = ToyFetcher()
    options = {"local": None, "local_folder": None, "setting": "tiny"}
    host = build(chain, tmp_path, weights=weights, certify=refuse, **options)
    with pytest.raises(NotCertified):
        trio.run(host.prepare)
    assert [share.pin for share in weights.shares] == [""]

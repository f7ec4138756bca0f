"""Nodes that give each other weights over real connections, and villains."""

import functools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import trio
from safetensors.numpy import save_file

from chain.records.model import ModelRecord, compute_model_id
from inference.errors import BadWeights
from inference.weights.model_info import Model, load_model
from inference.weights.pieces import select_parts
from inference.weights.pieces_store import PieceStore, get_part_path
from inference.weights.weights import open_weights
from network.faults import Fault
from network.network import Network
from network.stream import Stream
from network.topics import Priority
from p2pchain.node.home.initialise import build_model_record
from p2pchain.node.weights import fetcher as weights_fetcher
from p2pchain.node.weights.fetcher import Share, WeightsFetcher
from p2pchain.node.weights.messages import OFFER, OUTLINE, PART, encode_offer
from p2pchain.node.weights.server import WeightsServer
from primitives.codec import encode
from primitives.errors import MissingError
from primitives.keys import SecretKey

CHAIN = b"\7" * 32
LAYERS = 6
PART_BYTES = 1000
WAIT_S = 120.0
"""On a busy machine; a bound, not a measurement."""

CONFIG = """{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
"num_hidden_layers": 6, "hidden_size": 16, "vocab_size": 32,
"max_position_embeddings": 64, "dtype": "float32"}"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts and short waits."""
    for module in ("inference.weights.pieces", "inference.weights.weights",
                   "inference.weights.pieces_folder",
                   "p2pchain.node.weights.server",
                   "p2pchain.node.weights.fetcher"):  # fmt: skip
        monkeypatch.setattr(f"{module}.PART_BYTES", PART_BYTES)
    monkeypatch.setattr(weights_fetcher, "OFFER_S", 0.05)
    monkeypatch.setattr(weights_fetcher, "PAUSE_S", 0.02)
    # On a busy machine an honest peer is slow too, and must not be asked in vain.
    monkeypatch.setattr("p2pchain.node.state_sync.work_board.SLOW_S", WAIT_S)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model's folder; of every tensor some parts."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    luck = np.random.default_rng(1)
    tensors = {
        f"model.layers.{layer}.{name}": luck.random((16, 40), dtype=np.float32)
        for layer in range(LAYERS)
        for name in ("a", "b")
    }
    tensors["embed"] = luck.random((32, 16), dtype=np.float32)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(CONFIG)
    (folder / "tokenizer.json").write_text('{"a": 1}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    return folder


@pytest.fixture
def model(source: Path) -> Model:
    """The same, read."""
    return load_model(source)


def share_of(model: Model, layers: range | None, with_ends: bool = False) -> Share:
    return Share(build_model_record(model.info), layers, with_ends, "hosted")


class Town:
    """A node without weights, and servers."""

    def __init__(self, nursery: trio.Nursery, home: Path, **limits) -> None:
        self.nursery = nursery
        self.home = home
        self.network = Network(node_key=SecretKey(b"c" * 32), chain_id=CHAIN)
        self.faults: list[tuple[bytes, Fault]] = []
        charge = self.network.penalize

        def penalize(peer_id: bytes, fault: Fault) -> None:
            self.faults.append((peer_id, fault))
            charge(peer_id, fault)

        self.network.penalize = penalize  # type: ignore[method-assign]
        self.store = PieceStore(home / "parts", reserve_bytes=0, **limits)
        self.server = WeightsServer(self.network, self.store)
        self.fetcher = self.build_fetcher()

    def build_fetcher(self) -> WeightsFetcher:
        return WeightsFetcher(
            self.network, self.store, self.home, self.server, lambda model_id: ()
        )

    async def start(self) -> None:
        self.endpoint = await self.nursery.start(self.network.run, "127.0.0.1", 0)

    async def add(self, kind: "Callable[..., Holder]", name: bytes, *args) -> "Holder":
        """Start a server and connect the node with it."""
        holder = kind(SecretKey(name * 32), *args)
        endpoint = await self.nursery.start(holder.network.run, "127.0.0.1", 0)
        self.network.add_endpoint(endpoint, persistent=True)
        while endpoint.peer_id not in {p.peer_id for p in self.network.peers()}:
            await trio.sleep(0.005)
        return holder

    async def obtain(self, share: Share) -> Model:
        with trio.fail_after(WAIT_S):
            return await self.fetcher.obtain(share)

    def get_faults(self, holder: "Holder") -> list[Fault]:
        return [fault for peer, fault in self.faults if peer == holder.network.peer_id]


class Holder:
    """A node that serves a folder, and counts what it was asked for."""

    server_class: type[WeightsServer] = WeightsServer

    def __init__(self, key: SecretKey, source: Path, model: Model) -> None:
        self.model = model
        self.network = Network(node_key=key, chain_id=CHAIN)
        self.sent: list[bytes] = []
        self.serve(source)

    def serve(self, source: Path) -> None:
        store = PieceStore(source.parent / "none", reserve_bytes=0)
        server = self.server_class(self.network, store)
        server.add(self.model.info.model_id, self.model.outline, source)
        read = server._read

        def count(digest: bytes) -> bytes | None:
            data = read(digest)
            if data is not None:
                self.sent.append(digest)
            return data

        server._read = count  # type: ignore[method-assign]


class Villain(Holder):
    """Says that it has everything."""

    def serve(self, source: Path) -> None:
        handle = functools.partial(self.network.handle_request, priority=Priority.BULK)
        handle(OUTLINE, self.on_outline)
        handle(OFFER, self.on_offer)
        self.network.handle(PART, self.serve_part, priority=Priority.BULK)

    async def on_outline(self, peer_id: bytes, payload: bytes) -> bytes:
        return encode(self.model.outline)

    async def on_offer(self, peer_id: bytes, payload: bytes) -> bytes:
        parts = weights_fetcher.list_parts(self.model.outline.pieces)
        return encode_offer(parts, lambda digest: True)

    async def serve_part(self, peer_id: bytes, stream: Stream) -> None:
        raise NotImplementedError


class Liar(Villain):
    """Sends other bytes."""

    async def serve_part(self, peer_id: bytes, stream: Stream) -> None:
        self.sent.append(await stream.receive())
        await stream.send(b"x" * PART_BYTES)


class Endless(Villain):
    """Sends more than a part can be."""

    async def serve_part(self, peer_id: bytes, stream: Stream) -> None:
        await stream.receive()
        await stream.send(bytes(40 * PART_BYTES))


class Trickler(Villain):
    """Takes questions and never answers."""

    async def serve_part(self, peer_id: bytes, stream: Stream) -> None:
        self.sent.append(await stream.receive())
        await trio.sleep_forever()


class Boaster(Villain):
    """Has nothing of what it offers."""

    async def serve_part(self, peer_id: bytes, stream: Stream) -> None:
        raise MissingError("not here")


class BadOffer(Villain):
    """Offers parts that there are not."""

    async def on_offer(self, peer_id: bytes, payload: bytes) -> bytes:
        return b"\xff" * 9


class OtherOutline(Villain):
    """Sends the outline of something else, with a configuration of its own."""

    async def on_outline(self, peer_id: bytes, payload: bytes) -> bytes:
        outline = self.model.outline
        return encode(type(outline)(outline.tokenizer, outline.weights))

    async def on_offer(self, peer_id: bytes, payload: bytes) -> bytes:
        raise MissingError("no such model")


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Run a test's story in a town of its own."""

    def run(story, **limits) -> None:
        async def body() -> None:
            async with trio.open_nursery() as nursery:
                town = Town(nursery, tmp_path / "home", **limits)
                await town.start()
                await story(town)
                nursery.cancel_scope.cancel()

        trio.run(body)

    return run


def flip_bit(path: Path, place: int) -> None:
    """Damage a byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def check_share(town: Town, source: Path, model: Model, layers: range) -> None:
    """Compare what a worker would read with the folder."""
    theirs = open_weights(source).entries
    ours = open_weights(town.fetcher.get_folder(model.info.model_id)).entries
    for name, entry in theirs.items():
        if name.startswith("model.layers.") and int(name.split(".")[2]) in layers:
            pair = bytearray(entry.length), bytearray(entry.length)
            entry.read_into(memoryview(pair[0]))
            ours[name].read_into(memoryview(pair[1]))
            assert pair[0] == pair[1]
    needed = select_parts(model.outline, LAYERS, layers, with_ends=False)
    assert town.store.used_bytes == sum(part.size for part in needed)


def test_a_share_comes_from_all_peers_and_nothing_else_does(
    source, model, play
) -> None:
    arrived, both = set(), trio.Event()

    class Waiting(WeightsServer):
        """Sends nothing before both were asked for something."""

        async def _serve_part(self, peer_id: bytes, stream: Stream) -> None:
            arrived.add(self)
            if len(arrived) == 2:
                both.set()
            await both.wait()
            await super()._serve_part(peer_id, stream)

    class Both(Holder):
        server_class = Waiting

    async def main(town: Town) -> None:
        holders = [await town.add(Both, n, source, model) for n in (b"1", b"2")]
        assert await town.obtain(share_of(model, range(2, 4))) == model
        check_share(town, source, model, range(2, 4))
        assert all(holder.sent for holder in holders)
        sent = [digest for holder in holders for digest in holder.sent]
        assert len(sent) == len(set(sent))
        folder = town.fetcher.get_folder(model.info.model_id)
        assert (folder / "config.json").read_text() == CONFIG
        assert not (folder / "tokenizer.json").exists()
        assert not town.faults
        # With the ends the tokenizer comes too, and only what is new is asked for.
        await town.obtain(share_of(model, range(2, 4), with_ends=True))
        assert (folder / "tokenizer.json").exists()
        again = [digest for holder in holders for digest in holder.sent]
        assert len(again) == len(set(again))

    play(main)


def test_the_configuration_can_be_had_alone(source, model, play) -> None:
    async def main(town: Town) -> None:
        await town.add(Holder, b"1", source, model)
        record = build_model_record(model.info)
        assert await town.obtain(Share(record, None, False, "")) == model
        assert town.store.used_bytes == len(CONFIG)

    play(main)


def test_what_is_fetched_ahead_makes_room_for_what_is_hosted(
    source, model, play
) -> None:
    """A hundred bytes more than one layer is the whole cache."""

    async def main(town: Town) -> None:
        await town.add(Holder, b"1", source, model)
        record = build_model_record(model.info)
        with trio.fail_after(WAIT_S):
            await town.fetcher.prefetch(Share(record, range(1, 2), False, ""))
        ahead = select_parts(model.outline, LAYERS, range(1, 2), with_ends=False)
        assert all(part.digest in town.store for part in ahead)
        await town.obtain(share_of(model, range(2, 3)))
        check_share_is_here(town, model, range(2, 3))
        # What was fetched ahead has gone, and takes nothing hosted away again.
        with trio.fail_after(WAIT_S):
            await town.fetcher.prefetch(Share(record, range(1, 2), False, ""))
        check_share_is_here(town, model, range(2, 3))

    layer = sum(p.size for p in model.outline.tensors if ".layers.1." in p.name)
    play(main, limit_bytes=layer + len(CONFIG) + 100)


def check_share_is_here(town: Town, model: Model, layers: range) -> None:
    parts = select_parts(model.outline, LAYERS, layers, with_ends=False)
    assert all(part.digest in town.store for part in parts)


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask somebody else where nothing comes for a moment."""
    monkeypatch.setattr("p2pchain.node.state_sync.work_board.SLOW_S", 0.2)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("kind", [Liar, Endless, Trickler, Boaster, BadOffer])
def test_a_villain_delays_and_no_more(source, model, kind, play) -> None:
    async def main(town: Town) -> None:
        villain = await town.add(kind, b"v", source, model)
        await town.add(Holder, b"1", source, model)
        await town.obtain(share_of(model, range(LAYERS)))
        check_share(town, source, model, range(LAYERS))
        if kind in (Liar, BadOffer):
            assert Fault.BAD_MESSAGE in town.get_faults(villain)
        if kind is Liar:
            # Two questions were open; after the first answer there was no third.
            assert len(villain.sent) <= 2

    play(main)


def test_another_outline_is_not_believed(source, model, play) -> None:
    async def main(town: Town) -> None:
        villain = await town.add(OtherOutline, b"v", source, model)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(town.obtain, share_of(model, range(1)))
            while not town.get_faults(villain):
                await trio.sleep(0.01)
            assert town.fetcher.wanted == model.info.name
            await town.add(Holder, b"1", source, model)
        check_share(town, source, model, range(1))

    play(main)


def test_what_was_fetched_is_offered_at_once(source, model, tmp_path, play) -> None:
    async def main(town: Town) -> None:
        await town.add(Holder, b"1", source, model)
        await town.obtain(share_of(model, range(3)))
        other = Town(town.nursery, tmp_path / "other")
        other.network = Network(node_key=SecretKey(b"o" * 32), chain_id=CHAIN)
        other.server = WeightsServer(other.network, other.store)
        other.fetcher = other.build_fetcher()
        await other.start()
        other.network.add_endpoint(town.endpoint, persistent=True)
        await other.obtain(share_of(model, range(1, 3)))
        check_share(other, source, model, range(1, 3))
        # The rest is with nobody that it knows.
        with trio.move_on_after(0.3):
            await other.fetcher.obtain(share_of(model, range(2, 5)))
        progress = other.store.used_bytes
        parts = select_parts(model.outline, LAYERS, range(1, 3), with_ends=False)
        assert progress == sum(part.size for part in parts)

    play(main)


class Crash(BaseException):
    """The machine stops here."""


@pytest.mark.parametrize("step", [*range(6), 9, 13, 20, 30])
def test_a_crash_between_any_two_writes_costs_nothing_that_was_here(
    source, model, tmp_path, step, monkeypatch, play
) -> None:
    share = share_of(model, range(2))
    count = 0

    def interrupt(name: str) -> Callable[..., object]:
        original = getattr(Path, name)

        def run_or_crash(self: Path, *args, **kwargs) -> object:
            nonlocal count
            if "home" in str(self):
                count += 1
                if count > step:
                    raise Crash
            return original(self, *args, **kwargs)

        return run_or_crash

    async def main(town: Town) -> None:
        holder = await town.add(Holder, b"1", source, model)
        with monkeypatch.context() as patch:
            for name in ("write_bytes", "rename"):
                patch.setattr(Path, name, interrupt(name))
            # From a thread, or from tasks beside each other.
            with suppress(Crash, BaseExceptionGroup):
                await town.obtain(share)
        holder.sent.clear()
        town.store = PieceStore(tmp_path / "home" / "parts", reserve_bytes=0)
        held = {part for part in parts if part.digest in town.store}
        town.fetcher = town.build_fetcher()
        await town.obtain(share)
        check_share(town, source, model, range(2))
        # Only what was not here is asked for.
        assert set(holder.sent) == {part.digest for part in parts - held}

    parts = set(select_parts(model.outline, LAYERS, range(2), with_ends=False))
    play(main)


def test_a_damaged_part_is_fetched_anew_before_a_worker_reads_it(
    source, model, caplog, monkeypatch, play
) -> None:
    async def main(town: Town) -> None:
        holder = await town.add(Holder, b"1", source, model)
        share = share_of(model, range(2))
        await town.obtain(share)
        part = select_parts(model.outline, LAYERS, range(2), with_ends=False)[3]
        path = get_part_path(town.store.folder, part.digest)
        flip_bit(path, 5)
        holder.sent.clear()
        # It was obtained a moment ago, so the first start of a worker trusts it.
        await town.fetcher.ensure(share)
        assert holder.sent == []
        monkeypatch.setattr(weights_fetcher, "FRESH_S", 0.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(town.fetcher.ensure, share)
            nursery.start_soon(town.fetcher.ensure, share)
        assert holder.sent == [part.digest]
        assert f"{part.digest.hex()} is damaged" in caplog.text
        check_share(town, source, model, range(2))

    play(main)


def test_a_holder_whose_file_changed_does_not_send_it(
    source, model, tmp_path, caplog, play
) -> None:
    async def main(town: Town) -> None:
        good = tmp_path / "good"
        good.mkdir()
        for file in source.iterdir():
            (good / file.name).write_bytes(file.read_bytes())
        changed = await town.add(Holder, b"1", source, model)
        flip_bit(source / "model.safetensors", -1)
        await town.add(Holder, b"2", good, model)
        await town.obtain(share_of(model, range(LAYERS)))
        check_share(town, good, model, range(LAYERS))
        assert not town.get_faults(changed)

    play(main)


def test_a_cache_that_is_too_small_says_so_before_it_begins(
    source, model, play
) -> None:
    async def main(town: Town) -> None:
        holder = await town.add(Holder, b"1", source, model)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(town.fetcher.obtain, share_of(model, range(LAYERS)))
            with trio.fail_after(WAIT_S):
                while "weights_cache_mb" not in town.fetcher.problem:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert holder.sent == []

    play(main, limit_bytes=5000)


def test_a_full_disk_is_told_and_what_waits_goes_on_when_there_is_room(
    source, model, play
) -> None:
    free = [12_000]

    def measure(folder: Path) -> int:
        files = (path for path in folder.rglob("*") if path.is_file())
        return free[0] - sum(path.stat().st_size for path in files)

    async def main(town: Town) -> None:
        await town.add(Holder, b"1", source, model)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(town.obtain, share_of(model, range(LAYERS)))
            while "MB are free" not in town.fetcher.problem:
                await trio.sleep(0.01)
            free[0] = 10**9
        check_share(town, source, model, range(LAYERS))

    play(main, get_free_bytes=measure)


def test_a_model_that_is_not_what_the_chain_says_is_refused(
    source, model, play
) -> None:
    """Anybody may propose a model with roots that fit and numbers that do not."""

    async def main(town: Town) -> None:
        await town.add(Holder, b"1", source, model)
        record = build_model_record(model.info)
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        wrong = ModelRecord(**(fields | {"layers": 3}))
        assert wrong.model_id == compute_model_id(
            wrong.weights_root, wrong.tokenizer_hash
        )
        with pytest.raises(BadWeights, match="the chain says 3"):
            await town.obtain(Share(wrong, range(1), False, "hosted"))

    play(main)

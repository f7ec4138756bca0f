"""
A model that is not in a folder here, or layers that are not chosen yet.

    which model   --model NAME: one of the chain's, by name or id
    which layers  --host-layers auto: what fits and is most needed (inference/capacity)
    the weights   from peers (p2pchain/node/weights), or from the folder of --model

All of it needs the chain, so it happens while the node runs; then workers start as if
everything had been here from the beginning.  What was chosen is written down: a start
after a crash goes on with the layers whose weights are already half here.
"""

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from chain.records.model import ModelRecord
from chain.records.registration import RegistrationStatus
from chain.tree.following import Layers
from inference.capacity.moving import LEAST_GAIN, compute_gain
from inference.capacity.placement import Choice, choose_layers, count_hosts
from inference.device.device import Device, measure_device
from inference.device.hardware import CPU, Hardware, measure_hardware
from inference.device.memory import compute_weights_room
from inference.device.precision import Precision
from inference.weights.model_info import DTYPE_BYTES, Model
from inference.weights.pieces import Outline, count_layer_bytes
from p2pchain.errors import ConfigError
from p2pchain.node.chain.service import ChainService
from p2pchain.node.home.config import AUTO
from p2pchain.node.home.precision_choice import (
    choose_for,
    count_served,
    load_precision,
    save_precision,
)
from p2pchain.node.home.profile import get_profile_hash
from p2pchain.node.hosting.placement_watch import (
    Place,
    PlacementWatch,
    list_hosts,
    take_next,
)
from p2pchain.node.weights.fetcher import Share, WeightsFetcher
from wallet.files import write_atomically

LOOK_S = 0.5
"""How often it is looked whether the chain has been caught up with."""
PIN = "own"
"""Under which name the cache keeps what this node hosts and buys."""
CHOICE_FILE = "chosen-layers.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that workers can load."""

    model: Model
    directory: Path
    layers: tuple[int, int] | None
    """Those to be hosted; None for a gateway alone."""
    prepare: Callable[[], Awaitable[None]] | None
    """To be awaited before a worker reads the directory; see `SupervisedWorker`."""
    precision: Precision = Precision.NATIVE
    """In which layers are hosted or bought."""


class ModelHost:
    """Gets ready what a node hosts.

    Args:
        chain: Where models and providers are registered.
        weights: Takes parts from peers.
        folder: Of the weights in this home.
        setting: Name or id of a model; not used with `local`.
        layers: `start:end` as numbers, `AUTO`, or None for none.
        with_ends: Whether this node is a gateway.
        local: The model, where a folder has it.
        local_folder: That folder.
        certify: Refuses a model, by its configuration, that cannot be divided exactly;
            not asked about a local one.
        account: Ours: our own registration is not somebody else's.
        is_behind: Whether blocks are still to be caught up with.
        precision: One of `Precision`, or `AUTO`.
        device: Where layers compute: `AUTO`, or a name of torch's.
    """

    def __init__(
        self,
        *,
        chain: ChainService,
        weights: WeightsFetcher,
        folder: Path,
        setting: str,
        layers: tuple[int, int] | str | None,
        with_ends: bool,
        local: Model | None,
        local_folder: Path | None,
        certify: Callable[[Path], object],
        account: bytes,
        is_behind: Callable[[], bool],
        precision: str = Precision.NATIVE,
        device: str = CPU,
    ) -> None:
        self._chain = chain
        self._weights = weights
        self._folder = folder
        self._setting = setting
        self._layers = layers
        self._with_ends = with_ends
        self._local = local
        self._local_folder = local_folder
        self._certify = certify
        self._account = account
        self._is_behind = is_behind
        self._precision = precision
        self._device = device
        self._hardware: Hardware | None = None
        self._device_found: Device | None = None
        self.place: Place | None = None
        """What was chosen; None where the settings say it."""
        self.stage = "the chain"
        """What it waits for, for people; empty when all is ready."""

    async def prepare(self) -> Ready:
        """Return when everything is here.

        Raises:
            ConfigError: No layer fits in this machine's memory, or there is none such.
            ModelError: The model cannot be run.
        """
        record = await self._find_record()
        if self._local is None:
            await self._probe(record)
        precision = await self._choose_precision(record)
        layers = await self._choose(record, precision)
        self._follow(record, layers)
        if self._local is not None:
            assert self._local_folder is not None
            ready = Ready(self._local, self._local_folder, layers, None, precision)
        else:
            ready = await self._fetch(record, layers, precision)
        self.stage = ""
        return ready

    async def _probe(self, record: ModelRecord) -> None:
        """Find out whether a model can be divided, before its weights are fetched."""
        self.stage = f"the configuration of {record.name}"
        await self._weights.obtain(Share(record, None, False, ""))
        self.stage = f"the probe of {record.name}"
        folder = self._weights.get_folder(record.model_id)
        await trio.to_thread.run_sync(self._certify, folder, abandon_on_cancel=True)

    async def _fetch(
        self,
        record: ModelRecord,
        layers: tuple[int, int] | None,
        precision: Precision,
    ) -> Ready:
        share = Share(
            record, None if layers is None else range(*layers), self._with_ends, PIN
        )
        self.stage = f"the weights of {record.name}"
        model = await self._weights.obtain(share)
        directory = self._weights.get_folder(record.model_id)

        async def ensure() -> None:
            await self._weights.ensure(share)

        return Ready(model, directory, layers, ensure, precision)

    # Which model

    async def _find_record(self) -> ModelRecord:
        """Return the chain's record, as soon as it has one."""
        is_told = False
        while True:
            records = self._chain.queries.market.list_models()
            record = find_model(records, self._setting, self._local)
            if record is not None:
                return record
            if not is_told and not self._is_behind() and self._chain.height:
                names = ", ".join(each.name for each in records) or "none"
                log.warning(
                    "the chain has no model %s yet (it has: %s); waiting",
                    self._setting,
                    names,
                )
                is_told = True
            self.stage = f"the model {self._setting} on the chain"
            await self._chain.wait_height(self._chain.height + 1)

    def _follow(self, record: ModelRecord, layers: tuple[int, int] | None) -> None:
        """Let the node follow the shards of what it works with from now on."""
        whole = 0, record.layers
        start, end = whole if self._with_ends else layers or whole
        tree = self._chain.tree
        tree.follow = replace(
            tree.follow, layers=(Layers(record.model_id, start, end),)
        )

    # Which numbers

    async def _choose_precision(self, record: ModelRecord) -> Precision:
        if self._precision != AUTO:
            return Precision(self._precision)
        saved = load_precision(self._folder, record)
        if saved is not None:
            log.info("%s in %s as before", record.name, saved)
            return saved
        await self._catch_up("blocks, to see what others serve")
        hardware = await self._measure_hardware()
        registrations = self._chain.queries.market.list_registrations()
        served = count_served(record, registrations, self._account)
        is_buyer = self._layers is None
        chosen = choose_for(record, served, hardware, is_buyer=is_buyer)
        save_precision(self._folder, record, chosen)
        return chosen

    async def _measure_hardware(self) -> Hardware:
        """Look once; a CUDA device takes seconds."""
        if self._hardware is None:
            look = partial(measure_hardware, is_cpu_only=self._device == CPU)
            self._hardware = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        return self._hardware

    async def _measure_device(self) -> Device:
        """Measure the memory that layers will lie in."""
        hardware = await self._measure_hardware()
        if hardware.gpus:
            gpu = hardware.gpus[0]
            return Device(gpu.free_bytes, gpu.bytes_per_s)
        return await trio.to_thread.run_sync(measure_device)

    async def _catch_up(self, stage: str) -> None:
        self.stage = stage
        while self._is_behind() or not self._chain.height:
            await trio.sleep(LOOK_S)

    # Which layers

    async def _choose(
        self, record: ModelRecord, precision: Precision
    ) -> tuple[int, int] | None:
        if self._layers is None:
            return None
        if isinstance(self._layers, tuple):
            if self._layers[1] > record.layers:
                raise ConfigError(
                    f"layers {self._layers[0]}:{self._layers[1]}: {record.name} has "
                    f"{record.layers}"
                )
            return self._layers
        assert self._layers == AUTO
        self.stage = f"the outline of {record.name}"
        place = await self._weigh(record, precision)
        sizes, room = place.sizes, place.room_bytes
        saved = load_choice(self._folder, record)
        if saved is not None and sum(sizes[slice(*saved)]) <= room:
            moved = await self._take_next(replace(place, layers=saved))
            layers = moved or saved
            text = "hosting layers [%d, %d) of %s as before"
            if moved is not None:
                text = "hosting layers [%d, %d) of %s from now on"
                self._save_choice(record, layers)
            log.info(text, *layers, record.name)
        else:
            layers = await self._choose_anew(place)
        self.place = replace(place, layers=layers)
        return layers

    async def _weigh(self, record: ModelRecord, precision: Precision) -> Place:
        """Return what this machine has room for, with no layers yet."""
        outline = await self._load_outline(record)
        # What a stage computes in may be wider than what the files have.
        width = DTYPE_BYTES.get(precision.get_dtype(record.dtype))
        sizes = count_layer_bytes(outline, record.layers, width)
        device = await self._measure_device()
        room = compute_weights_room(device.room_bytes)
        self._device_found = device
        profile = get_profile_hash(record, precision)
        return Place(record, profile, (0, 0), tuple(sizes), room)

    async def _take_next(self, place: Place) -> tuple[int, int] | None:
        """Return where an earlier run meant to go, if that is still for the better."""
        layers = take_next(self._folder, place.record)
        if layers is None or sum(place.sizes[slice(*layers)]) > place.room_bytes:
            return None
        await self._catch_up("blocks, to see whether layers can be left")
        registrations = self._chain.queries.market.list_registrations()
        own, others = list_hosts(place, registrations, self._account)
        if own is None:
            return None
        gain = compute_gain(own, others, len(place.sizes), range(*layers))
        return None if gain is None or gain < LEAST_GAIN else layers

    def build_watch(self) -> PlacementWatch | None:
        """Return what looks for better layers; None where they were not chosen here."""
        if self.place is None:
            return None
        return PlacementWatch(
            self.place,
            self._chain.queries.market.list_registrations,
            self._account,
            self._is_behind,
            self._folder,
            None if self._local is not None else self._weights.prefetch,
        )

    async def _choose_anew(self, place: Place) -> tuple[int, int]:
        record, sizes, room = place.record, place.sizes, place.room_bytes
        await self._catch_up("blocks, to see which layers are needed")
        held = self._list_held(place)
        luck = int.from_bytes(self._account[:8], "big")
        choice = choose_layers(sizes, held, room, luck)
        if choice is None:
            raise ConfigError(
                f"--host-layers auto: no layer of {record.name} fits: the smallest has "
                f"{min(sizes) / 1e6:.1f} MB, and there is room for "
                f"{max(0, room) / 1e6:.1f} MB"
            )
        assert self._device_found is not None
        _explain(record, sizes, held, choice, self._device_found)
        layers = choice.layers.start, choice.layers.stop
        self._save_choice(record, layers)
        return layers

    async def _load_outline(self, record: ModelRecord) -> Outline:
        if self._local is not None:
            return self._local.outline
        return await self._weights.find_outline(record)

    def _list_held(self, place: Place) -> list[tuple[int, int]]:
        """Return the ranges that others serve now; other profiles make other routes."""
        return [
            (each.start, each.end)
            for each in self._chain.queries.market.list_registrations()
            if each.model_id == place.record.model_id
            and each.profile == place.profile
            and each.status is RegistrationStatus.ACTIVE
            and each.account != self._account
        ]

    def _save_choice(self, record: ModelRecord, layers: tuple[int, int]) -> None:
        start, end = layers
        document = {"model_id": record.model_id.hex(), "start": start, "end": end}
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._folder / CHOICE_FILE, json.dumps(document) + "\n", 0o600)


def load_choice(folder: Path, record: ModelRecord) -> tuple[int, int] | None:
    """Return the layers that an earlier start chose; None if it chose none."""
    try:
        saved = json.loads((folder / CHOICE_FILE).read_text())
        start, end = int(saved["start"]), int(saved["end"])
        is_same = saved["model_id"] == record.model_id.hex()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (start, end) if is_same and 0 <= start < end <= record.layers else None


def find_model(
    records: tuple[ModelRecord, ...], setting: str, local: Model | None = None
) -> ModelRecord | None:
    """Return the record of a model by name or id, or of one that is here."""
    for record in records:
        if local is not None:
            if record.model_id == local.info.model_id:
                return record
        elif setting in (record.name, record.model_id.hex()):
            return record
    return None


def _explain(
    record: ModelRecord,
    sizes: tuple[int, ...],
    held: list[tuple[int, int]],
    choice: Choice,
    device: Device,
) -> None:
    """Say what was chosen, and why."""
    chosen = sum(sizes[layer] for layer in choice.layers)
    hosts = " ".join(map(str, count_hosts(record.layers, held)))
    log.info(
        "hosting layers [%d, %d) of %s: %.1f MB of weights, %.1f MB of memory free; "
        "providers of each layer now: %s; memory is read at %.1f GB/s, so a token "
        "takes %.2f ms at least",
        choice.layers.start,
        choice.layers.stop,
        record.name,
        chosen / 1e6,
        device.free_bytes / 1e6,
        hosts,
        device.bytes_per_s / 1e9,
        1000 * chosen / device.bytes_per_s,
    )

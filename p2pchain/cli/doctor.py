"""
`p2pchain doctor`: how fast this swarm will answer, and whether it is worth it.

It asks a gateway for the route that a request would take now; any other node for what
the chain has registered and how far its peers are, of which the fastest route is taken.
It measures this machine's memory, and compares.  It is a prediction for one session:
what others compute at the same time, and the prompt, are not in it.
"""

from argparse import Namespace
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pchain.api.errors import UnknownModel
from p2pchain.cli.options import add_command
from p2pchain.cli.output import Output, format_table
from p2pchain.cli.session import get_home_path, open_client
from p2pchain.client import RpcError
from p2pchain.errors import ConfigError, HomeError

if TYPE_CHECKING:
    from inference.capacity.forecast import Alone, Forecast
    from inference.device.device import Device
    from p2pchain.cli.options import Commands

_ACTIVE = "ACTIVE"
"""A registration that routes use."""
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MATRICES = 12
"""Of hidden x hidden in a layer, for want of its files: four of attention, and a
feed-forward part of four times the width, or a gated one of two and two thirds."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of a model's weights."""

    layers: int
    ends: int
    is_exact: bool
    """Whether files here say it; else it follows from the model's sizes."""


def add_parser(commands: "Commands") -> None:
    """Add `doctor`."""
    parser = add_command(
        commands, "doctor", run, "predict tokens per second, here and in the swarm"
    )
    parser.add_argument(
        "model", nargs="?", help="default: the first one that is served"
    )


def run(args: Namespace, output: Output) -> None:
    """Predict, and say where a token comes sooner."""
    # Imported here: numpy takes a moment that no other command needs.
    from inference.capacity.forecast import (
        Stage,
        compute_read_us,
        forecast_alone,
        forecast_route,
        judge,
    )
    from inference.device.device import measure_device
    from inference.device.hardware import advise, measure_hardware
    from inference.device.memory import compute_weights_room

    client = open_client(args)
    status = client.call("status")
    providers = client.get("/api/v1/providers")["providers"]
    models = client.get("/api/v1/models")["models"]
    try:
        route = client.call("route", **({"model": args.model} if args.model else {}))
    except RpcError as error:
        if error.code != UnknownModel.rpc_code:
            raise
        # No gateway, or one for another model.
        model = _find_model(models, args.model)
        peers = client.call("net_info")["peers"]
        hops, source = _find_route(model, providers, peers), "chain"
    else:
        model = _find_model(models, route["model"])
        hops, source = route["hops"], "gateway"
    sizes = _find_sizes(args, model)
    device = measure_device()
    stages = [
        Stage(hop["end"] - hop["start"], hop["measured_us"], hop["latency_us"])
        for hop in hops
    ]
    ends_us = compute_read_us(sizes.ends, device.bytes_per_s)
    swarm = forecast_route(stages, ends_us)
    alone = forecast_alone(
        sizes.layers,
        ends_us,
        device.bytes_per_s,
        layer_us=_find_own(status, providers, model),
        layers=model["layers"],
        fits=sizes.layers + sizes.ends <= compute_weights_room(device.room_bytes),
    )
    verdict = judge(swarm, alone)
    hardware = measure_hardware()
    advice = advise(hardware, model["dtype"])
    document = {
        "model": model["name"],
        "route": source,
        "hops": hops,
        "processor": {
            "flags": sorted(hardware.flags),
            "gpus": [asdict(gpu) for gpu in hardware.gpus],
        },
        "precision": advice.precisions[0].value,
        "precision_because": advice.reason,
        "weights_bytes": sizes.layers + sizes.ends,
        "weights_exact": sizes.is_exact,
        "swarm": {
            **asdict(swarm),
            "fastest_us": swarm.fastest_us,
            "slowest_us": swarm.slowest_us,
        },
        "here": asdict(alone),
        "memory_bytes_per_s": device.bytes_per_s,
        "faster": verdict.value,
    }
    text = _describe(model, sizes, hops, swarm, alone, device, verdict.value)
    about = "" if source == "gateway" else f"\n{_WITHOUT_GATEWAY}"
    serve = f"\nserve   in {advice.precisions[0]}: {advice.reason}"
    output.show(document, text + serve + about)


def _find_model(models: list[dict[str, Any]], name: str | None) -> dict[str, Any]:
    """Return the chain's record of a model, by name or id; by default the first."""
    for model in models:
        if name is None or name in (model["name"], model["model_id"]):
            return model
    raise ConfigError(f"the chain has no model {name}" if name else "it has no model")


def _find_route(
    model: dict[str, Any], providers: list[dict[str, Any]], peers: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the fastest route that the chain's registrations make.

    Raises:
        ConfigError: Some layers have no active provider.
    """
    from inference.capacity.forecast import Offered, find_fastest, find_gaps

    ways = {peer["node_id"]: peer["rtt_us"] for peer in peers}
    offers = [
        Offered(
            name=each["name"],
            profile=each["profile"],
            start=each["start"],
            end=each["end"],
            measured_us=each["measured_us"],
            round_trip_us=ways.get(each["node_key"]),
        )
        for each in providers
        if each["model_id"] == model["model_id"] and each["status"] == _ACTIVE
    ]
    route = find_fastest(offers, model["layers"])
    if route is None:
        gaps = find_gaps(offers, model["layers"])
        text = f"layers {', '.join(map(str, gaps))} have no active provider"
        raise ConfigError(text if gaps else "no ranges of one profile meet each other")
    return [
        {
            "name": each.name,
            "start": each.start,
            "end": each.end,
            "measured_us": each.measured_us,
            "latency_us": each.round_trip_us,
        }
        for each in route
    ]


def _find_own(
    status: dict[str, Any], providers: list[dict[str, Any]], model: dict[str, Any]
) -> float | None:
    """Return a layer's time as this node measured it; None if it hosts none."""
    for each in providers:
        is_ours = each["account"] == status["address"]
        if is_ours and each["model_id"] == model["model_id"]:
            layers: int = each["end"] - each["start"]
            return float(each["measured_us"]) / layers
    return None


def _find_sizes(args: Namespace, model: dict[str, Any]) -> _Sizes:
    """Return a model's sizes: from files of the home, or from the chain's numbers."""
    from inference.errors import ModelError
    from inference.weights.pieces import assign_layers
    from inference.weights.weights import open_weights

    for folder in _list_folders(get_home_path(args), model):
        with suppress(ModelError):
            tensors = open_weights(folder).entries
            owners = assign_layers(tensors, model["layers"])
            total = sum(each.length for each in tensors.values())
            layers = sum(tensors[name].length for name in owners)
            return _Sizes(layers, total - layers, True)
    width = _DTYPE_BYTES.get(model["dtype"], 4)
    layers = _MATRICES * model["hidden_size"] ** 2 * model["layers"] * width
    return _Sizes(layers, model["vocab_size"] * model["hidden_size"] * width, False)


def _list_folders(path: Path, model: dict[str, Any]) -> list[Path]:
    """Return where a home may have a model: from peers, or as its settings say."""
    from inference.weights.pieces_folder import MODELS_FOLDER, OUTLINE_FILE
    from p2pchain.node.home.home import Home
    from p2pchain.node.home.initialise import get_model_name, resolve_model_dir

    name = model["model_id"].removeprefix("0x")
    fetched = path / "weights" / MODELS_FOLDER / name
    folders = [fetched] if (fetched / OUTLINE_FILE).is_file() else []
    with suppress(ConfigError, HomeError):
        setting = Home.open(path).load_config().model
        if get_model_name(setting) == model["name"]:
            folders.append(resolve_model_dir(setting))
    return folders


def _describe(
    model: dict[str, Any],
    sizes: _Sizes,
    hops: list[dict[str, Any]],
    swarm: "Forecast",
    alone: "Alone",
    device: "Device",
    verdict: str,
) -> str:
    about = "" if sizes.is_exact else "about "
    size = f"{about}{(sizes.layers + sizes.ends) / 1e6:.1f} MB"
    slow, fast = 1e6 / swarm.slowest_us, 1e6 / swarm.fastest_us
    lap = f"{swarm.shortest_lap_us / 1000:.2f} to {swarm.longest_lap_us / 1000:.2f}"
    rows = [
        (
            hop["name"],
            f"[{hop['start']}, {hop['end']})",
            f"{hop['measured_us'] / 1000:.2f}",
            "-" if hop["latency_us"] is None else f"{hop['latency_us'] / 1000:.2f}",
        )
        for hop in hops
    ]
    lines = [
        f"model   {model['name']}: {model['layers']} layers, {size} of weights",
        f"swarm   {slow:.1f} to {fast:.1f} tokens/s: {swarm.compute_us / 1000:.2f} ms "
        f"in the stages, {swarm.ends_us / 1000:.2f} at the requester, "
        f"{swarm.visits_us / 1000:.2f} for {len(hops)} visits, {lap} on the way",
    ]
    if swarm.unmeasured:
        lines.append(
            f"        the way to {swarm.unmeasured} of them was never measured and is "
            "not counted: it will be slower"
        )
    fits = (
        "fits" if alone.fits else f"does not fit into {device.room_bytes / 1e6:.0f} MB"
    )
    lines += [
        f"here    {1e6 / alone.slowest_us:.1f} to {1e6 / alone.fastest_us:.1f} tokens/s"
        f": memory is read at {device.bytes_per_s / 1e9:.1f} GB/s; the model {fits}",
        f"faster  {_EXPLAINED[verdict]}",
        "",
        format_table(("node", "layers", "ms per token", "round trip ms"), rows),
    ]
    return "\n".join(lines)


_WITHOUT_GATEWAY = (
    "route   the fastest of what the chain shows; this node is no gateway, and one "
    "would weigh prices and load as well"
)

_EXPLAINED = {
    "here": "here: run the model on this machine alone, it will be faster",
    "swarm": "the swarm",
    "equal": "cannot be told: what is known of the way leaves both possible",
}

"""`p2pchain status` and `peers`: where a node stands."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from p2pchain.cli.options import add_command
from p2pchain.cli.output import Output, format_table
from p2pchain.cli.session import open_client
from p2pchain.cli.shard_tables import describe_duties, describe_shards
from p2pchain.cli.staking import describe_seat, describe_stake
from p2pchain.progress_bar import draw_bar

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `status` and `peers`."""
    add_command(commands, "status", run, "show where the node stands")
    add_command(commands, "peers", run_peers, "list the node's connections")


def run(args: Namespace, output: Output) -> None:
    """Show the node's status."""
    client = open_client(args)
    status = client.call("status")
    status["shards"] = client.call("shard_list")["shards"]
    output.show(status, f"rpc        {client.url}\n{_describe(status)}")


def run_peers(args: Namespace, output: Output) -> None:
    """List the node's peers."""
    info = open_client(args).call("net_info")
    rows = (
        (
            peer["node_id"][2:18],
            peer["address"],
            "out" if peer["outbound"] else "in",
            "-" if peer["rtt_us"] is None else f"{peer['rtt_us'] / 1000:.2f}",
            peer["height"] or "-",
            peer["score"],
        )
        for peer in info["peers"]
    )
    header = ("node", "address", "way", "rtt ms", "height", "score")
    output.show(info, format_table(header, rows))


def _describe(status: dict[str, Any]) -> str:
    ready = "READY" if status["ready"] else f"waiting for {status['waiting_for']}"
    epoch = status["epoch"]
    lines = [
        f"node       {status['name']} ({status['node_id'][2:18]}), {status['version']}",
        f"network    {status['network']} ({status['chain_id'][:18]}...)",
        f"state      {ready}",
        f"height     {status['height']} at {status['time']}"
        + (f", syncing to {status['best_known_height']}" if status["syncing"] else ""),
        *_describe_history(status),
        f"block      {status['block_hash']}",
        f"epoch      {epoch['number']}, blocks {epoch['first_height']} to "
        f"{epoch['last_height']}, {epoch['blocks_to_go']} to go",
        f"address    {status['address']}",
        f"peers      {status['peers']}",
        f"mempool    {status['mempool']['transactions']} transactions",
    ]
    if validator := status["validator"]:
        lines += _describe_validator(validator, epoch["number"])
    for stage in status["stages"]:
        layers = (
            f" [{stage['start']}, {stage['end']})" if stage["role"] == "stage" else ""
        )
        detail = f": {stage['detail']}" if stage["detail"] else ""
        lines.append(
            f"worker     {stage['role']}{layers} {stage['state']}{detail}, "
            f"process {stage['pid']}"
        )
    lines += ["", describe_shards(status["shards"])]
    for stray in status["strayed"]:
        lines.append(
            f"shard {stray['shard']} is followed no more since block {stray['since']}: "
            f"a certified chunk of it is wrong: {stray['reason']}"
        )
    if duties := describe_duties(status["shards"]):
        lines += ["", duties]
    return "\n".join(lines)


def _describe_history(status: dict[str, Any]) -> list[str]:
    """Return what the node fetches instead of blocks, and where its history begins."""
    lines = []
    if sync := status["state_sync"]:
        eta = "" if sync["eta_s"] is None else f", {sync['eta_s']} s to go"
        lines.append(
            f"snapshot   of block {sync['height']}: {sync['parts_done']} of "
            f"{sync['parts']} parts, {sync['bytes_done'] / 1e6:.1f} of "
            f"{sync['bytes'] / 1e6:.1f} MB, {sync['bytes_per_s'] / 1e6:.1f} MB/s "
            f"from {sync['peers']} peers{eta}"
        )
    if weights := status["weights"]:
        lines.append(f"weights    {describe_weights(weights)}")
    if shard := status["shard_sync"]:
        lines.append(f"shard      {describe_shard_sync(shard, int(status['height']))}")
    if int(status["first_height"]):
        lines.append(f"history    from block {status['first_height']}, with a snapshot")
    return lines


def describe_weights(weights: dict[str, Any]) -> str:
    """Return how far the weights are that come from peers."""
    done, total = weights["bytes_done"], weights["bytes"]
    eta = "" if weights["eta_s"] is None else f", {weights['eta_s']} s to go"
    return (
        f"of {weights['model']}: [{draw_bar(done, total)}] {weights['parts_done']} of "
        f"{weights['parts']} parts, {done / 1e6:.1f} of {total / 1e6:.1f} MB, "
        f"{weights['bytes_per_s'] / 1e6:.1f} MB/s from {weights['peers']} peers{eta}"
    )


def describe_shard_sync(sync: dict[str, Any], height: int) -> str:
    """Return how far a shard is that the node begins to follow."""
    eta = "" if sync["eta_s"] is None else f", {sync['eta_s']} s to go"
    if sync["parts_done"] < sync["parts"]:
        return (
            f"{sync['shard']} is on its way, its state of block {sync['base_height']}: "
            f"{sync['parts_done']} of {sync['parts']} parts, "
            f"{sync['bytes_done'] / 1e6:.1f} of {sync['bytes'] / 1e6:.1f} MB{eta}"
        )
    return (
        f"{sync['shard']} is on its way, its chunks since block "
        f"{sync['base_height']}: up to {sync['done_height']} of {height}{eta}"
    )


def _describe_validator(validator: dict[str, Any], epoch: int) -> list[str]:
    """Return what the node's validator key counts for, in a line or two."""
    lines = [f"validator  {describe_seat(validator, epoch)}"]
    if stake := validator["stake"]:
        lines.append(f"stake      {describe_stake(stake)}")
    if validator["mute_reason"]:
        lines.append(f"silent     {validator['mute_reason']}")
    return lines

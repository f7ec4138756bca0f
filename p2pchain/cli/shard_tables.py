"""Shards as tables: what they are, and who is on duty in them."""

from typing import Any

from p2pchain.cli.output import format_table

Json = dict[str, Any]


def describe_shards(shards: list[Json]) -> str:
    """Return what `shard_list` says of every shard, one line each."""
    header = (
        "shard", "layers", "phase", "chunk", "block", "producer", "endorsed by",
        "waiting", "hosts",
    )  # fmt: skip
    here = [str(shard["shard"]) for shard in shards if shard["followed"]]
    follows = "" if len(here) == len(shards) else f"\nfollowed: {', '.join(here)}"
    return format_table(header, map(_build_row, shards)) + follows


def describe_duties(shards: list[Json]) -> str:
    """Return who may produce and endorse now, and how sure that is; one line each."""
    rows = [
        (
            shard["shard"],
            duty["view"],
            _join(duty["producers"], ", then "),
            _join(duty["committee"]["members"]),
            describe_need(duty["committee"]),
            duty["committee"]["security"],
        )
        for shard in shards
        if (duty := shard["duty"])
    ]
    header = (
        "shard", "view", "producers", "committee", "needed", "a bad chunk is",
    )  # fmt: skip
    return format_table(header, rows) if rows else ""


def describe_layers(shard: Json) -> str:
    """Return which layers of which model a shard is the ledger of."""
    if shard["layers"] is None:
        return "root"
    start, end = shard["layers"]
    return f"{shard['model']} [{start}, {end})"


def describe_endorsers(chunk: Json) -> str:
    """Return who endorsed a chunk, and the part of all power that they have."""
    certificate = chunk["certificate"]
    if certificate is None:
        return "-"
    share = 100 * int(certificate["power"]) / int(certificate["total_power"])
    return f"{_join(certificate['endorsers'])} ({share:.0f} %)"


def describe_need(committee: Json) -> str:
    """Return how much of a committee makes a certificate."""
    needed, total = int(committee["needed"]), int(committee["total"])
    if committee["unit"] == "mandates":
        return f"{needed} of {total} mandates"
    return f"more than {100 * (needed - 1) / total:.1f} % of all stake"


def _build_row(shard: Json) -> tuple[object, ...]:
    chunk = shard["chunk"]
    is_made = int(chunk["seq"]) > 0
    return (
        shard["shard"],
        describe_layers(shard),
        shard["phase"],
        chunk["seq"],
        shard["chunk_height"],
        (chunk["producer_name"] or f"#{chunk['producer']}") if is_made else "-",
        describe_endorsers(chunk),
        shard["backlog"],
        ", ".join(map(_describe_host, shard["hosts"]))
        or ("-" if shard["followed"] else "?"),
    )


def _describe_host(host: Json) -> str:
    start, end = host["layers"]
    state = "" if host["status"] == "ACTIVE" else f" {host['status'].lower()}"
    return f"{host['name']} [{start}, {end}){state}"


def _join(validators: list[Json], between: str = ", ") -> str:
    return between.join(each["name"] or f"#{each['index']}" for each in validators)

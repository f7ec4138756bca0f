"""The demo's view of the shards: the chunks and packets that an answer made."""

from collections.abc import Callable
from typing import Any

from p2pchain.cli.output import format_amount, format_table
from p2pchain.cli.shard_tables import describe_endorsers, describe_layers
from p2pchain.client import RpcClient

Json = dict[str, Any]

SHOWN = 100
"""Chunks of a shard, or packets of a pair, that are asked for: an answer makes less."""


def load_shard_work(client: RpcClient, first_height: int) -> Json:
    """Return the shards, and what they did from a height on.

    Args:
        client: Of a node.
        first_height: Of the first block that counts.

    Returns:
        `shards` as `shard_list` gives them, `chunks` (with `packets_taken`) and
        `packets`, the oldest first.
    """

    def is_new(height: str) -> bool:
        return int(height) >= first_height

    shards = client.call("shard_list")["shards"]
    chunks: list[Json] = []
    packets: list[Json] = []
    for shard in shards:
        number = shard["shard"]
        page = client.call("chunk_list", shard=number, limit=SHOWN)
        known = page["chunks"]
        chunks += [
            chunk | {"packets_taken": _count_taken(chunk, before)}
            for chunk, before in zip(known, [*known[1:], None], strict=True)
            if is_new(chunk["height"])
        ]
        for link in shard["links"]:
            way = {"src": number, "dst": link["dst"]}
            page = client.call("packet_list", **way, limit=SHOWN)
            packets += [p for p in page["packets"] if is_new(p["source_height"])]
    return {
        "shards": shards,
        "chunks": sorted(chunks, key=_by("height", "shard")),
        "packets": sorted(packets, key=_by("source_height", "src", "dst", "seq")),
    }


def describe_shard_work(work: Json) -> str:
    """Return the shards, their chunks and the packets between them, as tables."""
    shards = format_table(
        ["shard", "layers", "hosts", "chunks so far", "packets waiting"],
        (
            [
                shard["shard"],
                describe_layers(shard),
                ", ".join(host["name"] for host in shard["hosts"]) or "everybody",
                shard["chunk"]["seq"],
                shard["backlog"],
            ]
            for shard in work["shards"]
        ),
    )
    chunks = format_table(
        [
            "block",
            "shard",
            "chunk",
            "packets",
            "transactions",
            "producer",
            "endorsed by",
        ],
        (
            [
                chunk["height"],
                chunk["shard"],
                chunk["seq"],
                chunk["packets_taken"],
                chunk["tx_count"],
                chunk["producer_name"] or f"#{chunk['producer']}",
                describe_endorsers(chunk) if chunk["certificate"] else "everybody",
            ]
            for chunk in work["chunks"]
        ),
    )
    packets = format_table(
        ["packet", "kind", "amount", "sent in block", "consumed in"],
        (
            [
                f"{packet['src']} > {packet['dst']} #{packet['seq']}",
                packet["kind"],
                format_amount(packet["amount"]),
                packet["source_height"],
                packet["consumed_height"] or "waits",
            ]
            for packet in work["packets"]
        ),
    )
    return (
        f"shards:\n{shards}\n\nchunks of this answer:\n{chunks}\n\n"
        f"packets between shards for it:\n{packets}"
    )


def _count_taken(chunk: Json, before: Json | None) -> int:
    """Return how many packets a chunk consumed, by the one before it in its shard."""
    cursors = [*(before["in_cursor"] if before else ())]
    return sum(int(each["count"]) for each in chunk["in_cursor"]) - sum(
        int(each["count"]) for each in cursors
    )


def _by(*names: str) -> Callable[[Json], tuple[int, ...]]:
    return lambda item: tuple(int(item[name]) for name in names)

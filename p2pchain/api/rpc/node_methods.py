"""Methods about this node: health, status, connections, consensus."""

from typing import Any

from genesis.genesis import compute_chain_id
from genesis.json_form import to_json
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotReady
from p2pchain.api.render import (
    render,
    render_consensus,
    render_net_info,
    render_stage,
    to_hex,
    to_time,
)
from p2pchain.api.rpc.method import Method
from p2pchain.api.status import (
    NodeStatus,
    ShardSyncStatus,
    StateSyncStatus,
    ValidatorStatus,
    WeightsStatus,
)
from primitives.address import encode_address

Json = dict[str, Any]


async def get_health(backend: Backend) -> Json:
    """Answer when the node is READY, refuse when not."""
    status = backend.get_status()
    if not status.ready:
        raise NotReady(f"waiting for {status.waiting_for}")
    return {}


async def get_status(backend: Backend) -> Json:
    """Return where the node stands."""
    return render_status(backend.get_status()) | {
        "shards": list(backend.queries.layout.shard_ids),
        "followed": list(backend.queries.followed),
        "strayed": [
            {"shard": gap.shard, "since": str(gap.first), "reason": gap.reason}
            for gap in backend.queries.list_gaps()
            if gap.last is None and gap.reason
        ],
    }


async def get_net_info(backend: Backend) -> Json:
    """Return listen addresses and peers."""
    return render_net_info(backend.get_net_info())


async def get_genesis(backend: Backend) -> Json:
    """Return the genesis document, as in genesis.json."""
    return {
        "chain_id": to_hex(compute_chain_id(backend.genesis)),
        "genesis": to_json(backend.genesis),
    }


async def get_consensus_state(backend: Backend) -> Json:
    """Return a look into the consensus core."""
    return render_consensus(backend.get_consensus_info())


def _render_state_sync(status: StateSyncStatus | None) -> Json | None:
    if status is None:
        return None
    return {
        "height": str(status.height),
        "parts": status.parts,
        "parts_done": status.parts_done,
        "bytes": status.bytes,
        "bytes_done": status.bytes_done,
        "bytes_per_s": status.bytes_per_s,
        "eta_s": status.eta_s,
        "peers": status.peers,
    }


def _render_shard_sync(status: ShardSyncStatus | None) -> Json | None:
    if status is None:
        return None
    return {
        "shard": status.shard,
        "base_height": str(status.base_height),
        "parts": status.parts,
        "parts_done": status.parts_done,
        "bytes": status.bytes,
        "bytes_done": status.bytes_done,
        "done_height": str(status.done_height),
        "eta_s": status.eta_s,
    }


def _render_weights(status: WeightsStatus | None) -> Json | None:
    if status is None:
        return None
    return {
        "model": status.model,
        "parts": status.parts,
        "parts_done": status.parts_done,
        "bytes": status.bytes,
        "bytes_done": status.bytes_done,
        "bytes_per_s": status.bytes_per_s,
        "eta_s": status.eta_s,
        "peers": status.peers,
    }


def render_status(status: NodeStatus) -> Json:
    """Return a node's status as JSON."""
    epoch = status.epoch
    return {
        "name": status.name,
        "version": status.version,
        "network": status.network,
        "chain_id": to_hex(status.chain_id),
        "node_id": to_hex(status.node_id),
        "address": encode_address(status.address),
        "listen": list(status.listen),
        "ready": status.ready,
        "waiting_for": status.waiting_for,
        "height": str(status.height),
        "block_hash": to_hex(status.block_hash),
        "final": True,
        "time": to_time(status.time_ms),
        "epoch": {
            "number": epoch.number,
            "first_height": str(epoch.first_height),
            "last_height": str(epoch.last_height),
            "blocks_to_go": epoch.last_height - status.height,
        },
        "view": str(status.view),
        "syncing": status.syncing,
        "best_known_height": str(status.best_known_height),
        "first_height": str(status.first_height),
        "state_sync": _render_state_sync(status.state_sync),
        "shard_sync": _render_shard_sync(status.shard_sync),
        "weights": _render_weights(status.weights),
        "peers": status.peers,
        "mempool": {
            "transactions": status.mempool_transactions,
            "bytes": str(status.mempool_bytes),
        },
        "validator": status.validator and _render_validator(status.validator),
        "stages": [render_stage(stage) for stage in status.stages],
    }


def _render_validator(validator: ValidatorStatus) -> Json:
    stake = validator.stake
    return {
        "public_key": to_hex(validator.public_key),
        "index": validator.index,
        "power": str(validator.power),
        "total_power": str(validator.total_power),
        "next_power": str(validator.next_power),
        "from_epoch": validator.from_epoch,
        "until_epoch": validator.until_epoch,
        "stake": stake and render(stake),
        "is_voting": validator.is_voting,
        "mute_reason": validator.mute_reason,
    }


METHODS = (
    Method("health", "Whether the node can do everything it is for", get_health),
    Method("status", "Where the node stands", get_status),
    Method("net_info", "Listen addresses and peers", get_net_info),
    Method("genesis", "The network's first state", get_genesis),
    Method("consensus_state", "View, leader and votes now", get_consensus_state),
)

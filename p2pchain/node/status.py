"""What a node says of itself: where it stands, what it waits for, its peers."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from chain.ledger.epochs import compute_first_height, compute_last_height
from inference.worker.supervisor import SupervisedWorker, WorkerState
from p2pchain.api.errors import NoRoute
from p2pchain.api.status import (
    ConsensusInfo,
    EpochStatus,
    NetInfo,
    NodeStatus,
    PeerInfo,
    ShardSyncStatus,
    StageState,
    StageStatus,
    StateSyncStatus,
    ValidatorStatus,
    WeightsStatus,
)
from p2pchain.version import VERSION

if TYPE_CHECKING:
    from p2pchain.node.backend import NodeBackend

STAGE_STATES = {
    WorkerState.STARTING: StageState.LOADING,
    WorkerState.READY: StageState.READY,
    WorkerState.FAILED: StageState.FAILED,
}


def build_status(node: "NodeBackend") -> NodeStatus:
    """Return where this node stands."""
    final, consensus = node.chain.tree.final, node.driver.status
    return NodeStatus(
        name=node.config.name,
        version=VERSION,
        network=node.genesis.network,
        chain_id=node.chain.chain_id,
        node_id=node.network.peer_id,
        address=node.treasury.address,
        listen=tuple(map(str, node.endpoints)),
        height=final.height,
        block_hash=final.block_hash,
        time_ms=final.header.time_ms,
        epoch=_get_epoch(node),
        view=consensus.view,
        syncing=consensus.is_catching_up,
        best_known_height=consensus.best_height,
        first_height=node.chain.tree.first_height,
        state_sync=_get_state_sync(node),
        shard_sync=_get_shard_sync(node),
        weights=_get_weights(node),
        peers=len(node.network.peers()),
        mempool_transactions=len(node.chain.mempool),
        mempool_bytes=node.chain.mempool.get_bytes(),
        validator=_get_validator(node),
        stages=_list_stages(node),
        waiting_for=_get_missing(node),
    )


def _get_state_sync(node: "NodeBackend") -> StateSyncStatus | None:
    progress = node.state_sync.progress
    if progress is None:
        return None
    return StateSyncStatus(
        height=progress.height,
        parts=progress.parts,
        parts_done=progress.parts_done,
        bytes=progress.bytes,
        bytes_done=progress.bytes_done,
        bytes_per_s=int(progress.bytes_per_s),
        eta_s=None if progress.eta_s is None else round(progress.eta_s),
        peers=progress.peers,
    )


def _get_shard_sync(node: "NodeBackend") -> ShardSyncStatus | None:
    progress = node.shard_sync.progress
    if progress is None:
        return None
    parts = progress.parts
    return ShardSyncStatus(
        shard=progress.shard,
        base_height=parts.height,
        parts=parts.parts,
        parts_done=parts.parts_done,
        bytes=parts.bytes,
        bytes_done=parts.bytes_done,
        done_height=progress.done_height,
        eta_s=None if progress.eta_s is None else round(progress.eta_s),
    )


def _get_weights(node: "NodeBackend") -> WeightsStatus | None:
    progress = node.weights.progress
    if progress is None:
        return None
    return WeightsStatus(
        model=node.weights.wanted,
        parts=progress.parts,
        parts_done=progress.parts_done,
        bytes=progress.bytes,
        bytes_done=progress.bytes_done,
        bytes_per_s=int(progress.bytes_per_s),
        eta_s=None if progress.eta_s is None else round(progress.eta_s),
        peers=progress.peers,
    )


def build_net_info(node: "NodeBackend") -> NetInfo:
    """Return listen addresses and peers."""
    now = time.time()
    peers = tuple(
        PeerInfo(
            node_id=peer.peer_id,
            address=f"{peer.endpoint.host}:{peer.endpoint.port}"
            if peer.endpoint
            else "",
            outbound=peer.direction == "out",
            connected_ms=int((now - peer.connected_since) * 1000),
            rtt_us=None if peer.rtt_ms is None else int(peer.rtt_ms * 1000),
            bytes_in=peer.bytes_in,
            bytes_out=peer.bytes_out,
            score=int(peer.score),
            height=node.driver.get_peer_height(peer.peer_id),
        )
        for peer in node.network.peers()
    )
    listen = tuple(map(str, node.endpoints))
    return NetInfo(node_id=node.network.peer_id, listen=listen, peers=peers)


def build_consensus_info(node: "NodeBackend") -> ConsensusInfo:
    """Return a look into the consensus core."""
    status = node.driver.status
    return ConsensusInfo(
        epoch=status.epoch,
        view=status.view,
        leader=status.leader,
        index=status.index,
        is_voting=status.is_voting,
        mute_reason=status.mute_reason,
        final_height=node.chain.tree.final_height,
        final_view=node.chain.tree.final_view,
        final_hash=node.chain.tree.final_hash,
        total_power=node.queries.stakes.get_known_validators()[0].total_power,
    )


def _get_epoch(node: "NodeBackend") -> EpochStatus:
    running = node.queries.stakes.record.epoch
    blocks = node.chain.spec.params.epoch_blocks
    return EpochStatus(
        number=running,
        first_height=compute_first_height(running, blocks),
        last_height=compute_last_height(running, blocks),
    )


def _get_validator(node: "NodeBackend") -> ValidatorStatus | None:
    seat, public_key = node.staking.get_seat(), node.staking.public_key
    if seat is None or public_key is None:
        return None
    consensus = node.driver.status
    return ValidatorStatus(
        public_key=public_key,
        index=seat.index,
        power=seat.power,
        total_power=seat.total_power,
        next_power=seat.next_power,
        from_epoch=seat.from_epoch,
        until_epoch=seat.until_epoch,
        stake=seat.stake,
        is_voting=consensus.is_voting,
        mute_reason=consensus.mute_reason,
    )


def _list_stages(node: "NodeBackend") -> tuple[StageStatus, ...]:
    stages = []
    if (provider := node.provider) is not None:
        hops, model_id = provider.hops, provider.model_id
        stage = _describe_worker("stage", model_id, provider.worker)
        counts = {
            "sessions": hops.sessions,
            "pages_kept": hops.pages_kept,
            "kept_bytes": hops.kept_bytes,
            "pages_found": hops.pages_found,
            "pages_given": hops.pages_given,
            "pages_taken": hops.pages_taken,
        }
        stages.append(replace(stage, **counts))
    if (gateway := node.gateway) is not None:
        model_id = gateway.model_id
        stages.append(_describe_worker("requester", model_id, gateway.worker))
    return tuple(stages)


def _get_missing(node: "NodeBackend") -> str:
    """Return what this node still waits for, or nothing when it is READY."""
    for stage in _list_stages(node):
        if stage.state is not StageState.READY:
            detail = f" ({stage.detail})" if stage.detail else ""
            return f"its {stage.role} worker: {stage.state.value}{detail}"
    if progress := node.state_sync.progress:
        return f"the state at block {progress.height}"
    if node.chain.height == 0:
        return "the first final block"
    consensus = node.driver.status
    if consensus.is_catching_up:
        return f"blocks up to {consensus.best_height}"
    if consensus.mute_reason and _is_expected_to_vote(node):
        return f"permission to vote: {consensus.mute_reason}"
    if node.model_host is not None and node.model_host.stage:
        problem = node.weights.problem
        return node.model_host.stage + (f": {problem}" if problem else "")
    if node.provider is not None and not node.provider.is_active:
        return "its registration"
    if node.gateway is not None:
        try:
            node.gateway.get_route(node.gateway.worker.info.name)
        except NoRoute as error:
            return f"a route: {error}"
    return ""


def _is_expected_to_vote(node: "NodeBackend") -> bool:
    seat = node.staking.get_seat()
    return seat is not None and seat.index is not None


def _describe_worker(
    role: str, model_id: bytes, worker: SupervisedWorker
) -> StageStatus:
    status = worker.status
    start, end = status.layers or (0, 0)
    return StageStatus(
        role=role,
        model_id=model_id,
        start=start,
        end=end,
        state=STAGE_STATES[status.state],
        pid=status.pid,
        detail=status.reason,
    )

"""A simulated node's part in consensus, as its log leaves it."""

from typing import TYPE_CHECKING

from consensus.participant import Participant, ParticipantConfig
from consensus.records import WalRecord
from consensus.wal import scan_wal
from p2pchain.sim.machine.block_desk import HeldBlocks

if TYPE_CHECKING:
    from p2pchain.sim.node import Node


def open_mind(node: "Node") -> Participant:
    """Return the participant of a node's new life, by its log and its chain."""
    world, records = node.world, _read_log(node)
    is_lost = node.signer is not None and records is None
    return Participant(
        ParticipantConfig(
            chain_id=world.chains.chain_id,
            params=world.params,
            scheme=world.keys.scheme,
            signer=node.signer,
        ),
        node.chain.epoch,
        node.chain.tip,
        records or (),
        HeldBlocks(node.chain),
        lost_at_ms=node.get_clock_ms() if is_lost else None,
    )


def _read_log(node: "Node") -> tuple[WalRecord, ...] | None:
    """Return what the log says; None when it is lost."""
    log = node.disk.votes
    if node.signer is None or log.data is None:
        return None
    chain_id = node.world.chains.chain_id
    records, length = scan_wal(log.data, node.signer.public_key, chain_id)
    log.data = log.data[:length]
    return records

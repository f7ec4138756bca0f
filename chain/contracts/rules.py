"""
The table of transaction kinds and packet kinds: what applies, what it costs.

A kind that is not in the table cannot be decoded, so there is no default.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chain.contracts.arrivals import apply_farewell, apply_move, apply_sweep
from chain.contracts.bond import (
    apply_bond,
    compute_bond_outflow,
    compute_bond_work,
)
from chain.contracts.close import (
    apply_close,
    compute_close_outflow,
    compute_close_work,
)
from chain.contracts.credit import apply_bounce, apply_credit
from chain.contracts.mirror import (
    apply_mirror,
    apply_mirror_answer,
    apply_mirror_remove,
)
from chain.contracts.open_channels import (
    apply_open,
    compute_open_outflow,
    compute_open_work,
)
from chain.contracts.register import (
    apply_register,
    compute_register_outflow,
    compute_register_work,
)
from chain.contracts.request_close import (
    apply_request_close,
    compute_request_close_outflow,
    compute_request_close_work,
)
from chain.contracts.reshard import (
    apply_reshard,
    compute_reshard_outflow,
    compute_reshard_work,
)
from chain.contracts.reshard_vote import (
    apply_vote,
    compute_vote_outflow,
    compute_vote_work,
)
from chain.contracts.settle import (
    apply_settle,
    compute_settle_outflow,
    compute_settle_work,
)
from chain.contracts.top_up import (
    apply_top_up,
    compute_top_up_outflow,
    compute_top_up_work,
)
from chain.contracts.transfer import (
    apply_transfer,
    compute_transfer_outflow,
    compute_transfer_work,
)
from chain.contracts.unbond import (
    apply_unbond,
    compute_unbond_outflow,
    compute_unbond_work,
)
from chain.contracts.withdraw import (
    apply_withdraw,
    compute_withdraw_outflow,
    compute_withdraw_work,
)
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger
from chain.ledger.producers import apply_hosting_packet
from chain.records.channel import (
    Close,
    OpenChannels,
    RequestClose,
    Settle,
    TopUp,
    Withdraw,
)
from chain.records.params import ChainParams
from chain.records.registration import Register
from chain.records.resharding import Reshard, ReshardVote
from chain.records.staking import Bond, Unbond
from chain.records.transaction import Payload
from chain.records.transfer import Transfer
from shards.packet import Packet, PacketKind

BASE_WORK = 100
"""Signature, decoding, fee and nonce of any transaction."""
PACKET_WORK = 80
"""Proof, decoding and effect of any packet."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One transaction kind."""

    name: str
    """For people and queries."""
    apply: Callable[[Ledger, Context, Call, Any], None]
    compute_work: Callable[[Any], int]
    """Work units besides `BASE_WORK`."""
    compute_outflow: Callable[[Ledger, bytes, Any], int]
    """Atoms that leave the sender's balance besides the fee, if the rule succeeds."""


RULES: dict[type, Rule] = {
    Transfer: Rule(
        "transfer", apply_transfer, compute_transfer_work, compute_transfer_outflow
    ),
    Register: Rule(
        "register", apply_register, compute_register_work, compute_register_outflow
    ),
    OpenChannels: Rule(
        "open_channels", apply_open, compute_open_work, compute_open_outflow
    ),
    TopUp: Rule("top_up", apply_top_up, compute_top_up_work, compute_top_up_outflow),
    Settle: Rule("settle", apply_settle, compute_settle_work, compute_settle_outflow),
    Close: Rule("close", apply_close, compute_close_work, compute_close_outflow),
    RequestClose: Rule(
        "request_close",
        apply_request_close,
        compute_request_close_work,
        compute_request_close_outflow,
    ),
    Withdraw: Rule(
        "withdraw", apply_withdraw, compute_withdraw_work, compute_withdraw_outflow
    ),
    Bond: Rule("bond", apply_bond, compute_bond_work, compute_bond_outflow),
    Unbond: Rule("unbond", apply_unbond, compute_unbond_work, compute_unbond_outflow),
    Reshard: Rule(
        "reshard", apply_reshard, compute_reshard_work, compute_reshard_outflow
    ),
    ReshardVote: Rule(
        "reshard_vote", apply_vote, compute_vote_work, compute_vote_outflow
    ),
}

PACKET_RULES: dict[int, Callable[[Ledger, Context, Packet], None]] = {
    PacketKind.CREDIT: apply_credit,
    PacketKind.BOUNCE: apply_bounce,
    PacketKind.MIRROR: apply_mirror,
    PacketKind.MIRROR_ANSWER: apply_mirror_answer,
    PacketKind.MIRROR_REMOVE: apply_mirror_remove,
    PacketKind.MOVE: apply_move,
    PacketKind.SWEEP: apply_sweep,
    PacketKind.FAREWELL: apply_farewell,
    PacketKind.HOSTING: apply_hosting_packet,
}


def compute_work(payload: Payload) -> int:
    """Return the work units of a transaction with this payload."""
    return BASE_WORK + RULES[type(payload)].compute_work(payload)


def compute_fee(params: ChainParams, payload: Payload, signed_length: int) -> int:
    """Return the atoms that a transaction burns, whether its rule succeeds or not.

    Args:
        params: The chain's.
        payload: What the transaction does.
        signed_length: Bytes of the signed transaction.
    """
    return params.base_fee * (signed_length + compute_work(payload))

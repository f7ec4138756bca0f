"""
What a shard's chunk does by itself before its packets and transactions.

Only resharding asks for anything; most chunks have no step, and nothing is read but
the chunk's context.
"""

from chain.contracts.moving import STEP_REGISTRATIONS, run_moving_step
from chain.contracts.sweeping import NO_STEP, STEP_KEYS, SweepStep, run_sweeping_step
from chain.ledger.context import Context
from chain.ledger.ledger import Ledger
from chain.ledger.phase import Phase, get_phase
from chain.state.chunk_state import ChunkState

MAX_STEP_PACKETS = 64
"""To any one shard, by any step."""

assert max(STEP_REGISTRATIONS, STEP_KEYS) <= MAX_STEP_PACKETS


def run_step(ledger: Ledger, context: Context, state: ChunkState) -> SweepStep:
    """Do the next part of what a change of the layout asks of the shard.

    Args:
        ledger: Over `state`, with nothing written.
        context: Of the chunk.
        state: Of the shard before the chunk.
    """
    spec = context.layout.get_spec(context.shard)
    if spec is None or not spec.changed_epoch:
        return NO_STEP
    match get_phase(context):
        case Phase.ACTIVE:
            return SweepStep(run_moving_step(ledger, context, spec), range(0))
        case Phase.DRAINING:
            return NO_STEP
        case Phase.SWEEPING:
            return run_sweeping_step(
                ledger, context, spec, state.levels, state.get_bucket
            )

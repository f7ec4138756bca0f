"""
`python -m p2pchain.bench [SECTION ...] [--json FILE]`, or `make bench`.

Every section prints its figures with the load of the machine beside them, because on a
busy machine the load decides.  Nothing here is a test: a slow figure fails nothing.
"""

import sys

from p2pchain.bench.answers.decode import run_decode, run_large
from p2pchain.bench.answers.memory import run_memory, run_start
from p2pchain.bench.answers.recovery import run_recovery
from p2pchain.bench.chain.blocks import run_blocks
from p2pchain.bench.chain.catch_up import run_catch_up
from p2pchain.bench.chain.channels import run_channels
from p2pchain.bench.chain.finality import run_protocol
from p2pchain.bench.chain.shards import run_shards
from p2pchain.bench.chain.silence import run_silent_leader
from p2pchain.bench.chain.state import run_state
from p2pchain.bench.chain.state_sync import run_state_sync
from p2pchain.bench.chain.sustained import run_latency, run_sustained
from p2pchain.bench.chain.transfers import run_finality, run_transfers
from p2pchain.bench.chain.views import run_views
from p2pchain.bench.inference.way import run_hop
from p2pchain.bench.runner import Sections, run_command

SECTIONS: Sections = {
    "channel": ("Channel steps", run_channels),
    "blocks": ("One node and blocks of transfers", run_blocks),
    "shards": ("Transfers inside of 1, 2 and 4 shards", run_shards),
    "state": ("The state with a million keys", run_state),
    "views": ("A view of one validator among 4, 32 and 100", run_views),
    "catchup": ("A fresh node takes a chain", run_catch_up),
    "statesync": ("A fresh node takes a state of a million keys", run_state_sync),
    "protocol": ("From submission to finality, four validators", run_protocol),
    "latency": ("Single transfers inside of shards and across", run_latency),
    "sustained": ("Transfers through RPC for a minute", run_sustained),
    "leader": ("A silent leader among four", run_silent_leader),
    "hop": ("A hop beyond its computing, null stages", run_hop),
    "decode": ("Answers through four stages", run_decode),
    "recovery": ("A provider dies in the middle of an answer", run_recovery),
    "finality": ("Single transfers on an idle network", run_finality),
    "transfers": ("Many transfers through four validators", run_transfers),
    "memory": ("Memory", run_memory),
    "start": ("From homes to READY", run_start),
    "large": ("Answers of a wider model of random weights", run_large),
}
"""In the order in which they run: what needs no network first."""


def main() -> int:
    """Run the chosen sections; returns 1 when one could not measure."""
    return run_command("python -m p2pchain.bench", SECTIONS)


if __name__ == "__main__":
    sys.exit(main())

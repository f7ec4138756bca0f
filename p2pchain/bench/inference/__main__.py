"""
`python -m p2pchain.bench.inference [--only SECTION] [--json FILE]`, or
`make bench-inference`: what the inference engine makes of this machine.

Where nothing else is said, ours is a requester and two stage processes of one thread
each, driven over their sockets without a network between them.  Beside it stands
`generate` of the library in one process of one thread, asked in turns, so that both
meet the same machine; figures are medians, and what says something on a busy machine
are the ratios.

Models have random weights and are written to a folder that is removed at the end.
"""

import sys
from functools import partial

from p2pchain.bench.answers.prefix import run_prefix
from p2pchain.bench.answers.recovery import run_recovery
from p2pchain.bench.answers.speculation import run_speculation
from p2pchain.bench.inference.decode import run_decodes, run_prefill
from p2pchain.bench.inference.memory import run_memory
from p2pchain.bench.inference.perplexity import run_perplexity
from p2pchain.bench.inference.precision import run_kernels, run_precisions
from p2pchain.bench.inference.sessions import run_fairness, run_sessions
from p2pchain.bench.inference.way import run_hop, run_links, run_socket
from p2pchain.bench.lab.random_models import LARGE, MIDDLE, SMALL
from p2pchain.bench.runner import Sections, run_command

SECTIONS: Sections = {
    "perplexity": ("Perplexity in each precision, bundled model", run_perplexity),
    "hop": ("A hop beyond its computing, devnet of null stages", run_hop),
    "links": ("Four stages with links of 10 ms, bundled model", run_links),
    "speculation": ("Guesses over links of 50 ms, bundled model", run_speculation),
    "recovery": ("A provider dies in the middle of an answer", run_recovery),
    "socket": ("The way to a stage process and back", run_socket),
    "sessions": ("Eight sessions at once, 110M float32", run_sessions),
    "prefill": ("A prompt of 512 tokens, 110M float32", run_prefill),
    "prefix": ("A prompt whose beginning is kept, 110M float32", run_prefix),
    "fairness": ("A short request behind a prompt of 2,048, 110M", run_fairness),
    "memory": ("Memory of a stage's process", run_memory),
    "decode-110M": ("One session through two stages", partial(run_decodes, SMALL)),
    "kernels": ("Products of a layer of 0.5B, nothing around them", run_kernels),
    "precision": ("Precision of weights, 0.5B", run_precisions),
    "decode-0.5B": ("One session through two stages", partial(run_decodes, MIDDLE)),
    "decode-1.1B": ("One session through two stages", partial(run_decodes, LARGE)),
}
"""By the model that they need, small ones first: each is written over the last."""


def main() -> int:
    """Run the chosen sections; returns 1 when one could not measure."""
    return run_command("python -m p2pchain.bench.inference", SECTIONS)


if __name__ == "__main__":
    sys.exit(main())

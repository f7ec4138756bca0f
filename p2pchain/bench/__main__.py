"""
`python -m p2pchain.bench [SECTION ...] [--json FILE]`, or `make bench`.

Every section prints its figures with the load of the machine beside them, because on a
busy machine the load decides.  Nothing here is a test: a slow figure fails nothing.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from p2pchain.bench.answers import run_decode, run_hop, run_large
from p2pchain.bench.blocks import run_blocks
from p2pchain.bench.catchup import run_catch_up
from p2pchain.bench.channels import run_channels
from p2pchain.bench.finality import run_protocol
from p2pchain.bench.lab import Lab
from p2pchain.bench.memory import run_memory, run_start
from p2pchain.bench.recovery import run_recovery
from p2pchain.bench.report import (
    Figure,
    Section,
    build_document,
    collect_conditions,
    format_section,
    get_load,
)
from p2pchain.bench.shards import run_shards
from p2pchain.bench.silence import run_silent_leader
from p2pchain.bench.state import run_state
from p2pchain.bench.state_sync import run_state_sync
from p2pchain.bench.sustained import run_latency, run_sustained
from p2pchain.bench.transfers import run_finality, run_transfers
from p2pchain.bench.views import run_views

SECTIONS: dict[str, tuple[str, Callable[[Lab], list[Figure]]]] = {
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
    options = _parse()
    conditions = collect_conditions()
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    sections = []
    with TemporaryDirectory(prefix="p2pchain-bench-") as folder:
        lab = Lab(Path(folder), _report)
        try:
            for name in SECTIONS:
                if not options.sections or name in options.sections:
                    sections.append(_run(name, lab))
                    print("\n" + format_section(sections[-1]), flush=True)
        finally:
            lab.close()
    if options.json is not None:
        document = build_document(conditions, sections)
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(section.error for section in sections) else 0


def _run(name: str, lab: Lab) -> Section:
    title, measure = SECTIONS[name]
    load, started = get_load(), time.monotonic()
    figures: list[Figure] = []
    error = ""
    try:
        figures = measure(lab)
    except Exception as problem:
        # The other sections can still measure; this one says what went wrong.
        error = f"{type(problem).__name__}: {problem}"
    return Section(
        name=name,
        title=title,
        seconds=time.monotonic() - started,
        load_before=load,
        load_after=get_load(),
        figures=tuple(figures),
        error=error,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m p2pchain.bench")
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS) + " (all)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results as JSON")
    options = parser.parse_args()
    if unknown := set(options.sections) - SECTIONS.keys():
        parser.error(f"no section {sorted(unknown)[0]!r}; there are: "
                     + ", ".join(SECTIONS))  # fmt: skip
    return options


def _report(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

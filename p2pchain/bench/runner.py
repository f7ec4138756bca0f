"""
Runs sections one after another, shows each, and keeps all of them in one JSON file.

The file is written anew after every section, so that a run that is broken off has kept
what it measured.  A section that fails says why; the others can still measure.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.report import (
    Figure,
    Section,
    build_document,
    collect_conditions,
    format_section,
    get_load,
)

Measure = Callable[[Lab], list[Figure]]
Sections = Mapping[str, tuple[str, Measure]]
"""Title and function by name, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line asks for."""

    names: tuple[str, ...]
    file: Path | None
    """Where results go as JSON."""


def run_command(program: str, sections: Sections) -> int:
    """Run the sections that the command line names; 1 when one could not measure."""
    choice = parse_choice(program, sections, sys.argv[1:])
    conditions = collect_conditions()
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    done: list[Section] = []
    with TemporaryDirectory(prefix="p2pchain-bench-") as folder:
        lab = Lab(Path(folder), _report)
        try:
            for name in choice.names:
                done.append(run_section(name, *sections[name], lab))
                print("\n" + format_section(done[-1]), flush=True)
                if choice.file is not None:
                    document = build_document(conditions, done)
                    choice.file.write_text(json.dumps(document, indent=2) + "\n")
        finally:
            lab.close()
    return 1 if any(section.error for section in done) else 0


def run_section(name: str, title: str, measure: Measure, lab: Lab) -> Section:
    """Return what a section measured, or why it could not."""
    load, started = get_load(), time.monotonic()
    figures: list[Figure] = []
    error = ""
    try:
        figures = measure(lab)
    except Exception as problem:
        # Whatever went wrong is this section's result; the next ones still run.
        error = _describe(problem)
    return Section(
        name=name,
        title=title,
        seconds=time.monotonic() - started,
        load_before=load,
        load_after=get_load(),
        figures=tuple(figures),
        error=error,
    )


def parse_choice(program: str, sections: Sections, arguments: Sequence[str]) -> Choice:
    """Return what a command line asks for; leaves the process when it is wrong."""
    parser = argparse.ArgumentParser(prog=program)
    known = ", ".join(sections)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{known} (all)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SECTION", help="just this one"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results as JSON")
    options = parser.parse_args(arguments)
    asked = {*options.sections, *options.only}
    if unknown := asked - sections.keys():
        parser.error(f"no section {sorted(unknown)[0]!r}; there are: {known}")
    names = tuple(name for name in sections if not asked or name in asked)
    return Choice(names, options.json)


def _describe(problem: BaseException) -> str:
    """Return what went wrong; of several things the first."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return f"{type(problem).__name__}: {problem}"


def _report(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)

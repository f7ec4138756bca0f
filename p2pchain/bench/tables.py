"""
Markdown tables of a file of results.

    python -m p2pchain.bench.tables bench-inference.json [--into docs/benchmarks.md]

prints them, or puts them between the two marks of that document in place of what was
there.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from p2pchain.bench.report import Figure, Goal, format_goal, format_value

BEGIN = "<!-- results: begin -->"
END = "<!-- results: end -->"


def main() -> int:
    """Print tables, or put them into a document; returns 1 when it has no marks."""
    parser = argparse.ArgumentParser(prog="python -m p2pchain.bench.tables")
    parser.add_argument("results", type=Path, metavar="FILE")
    parser.add_argument("--into", type=Path, metavar="DOCUMENT")
    options = parser.parse_args()
    tables = format_document(json.loads(options.results.read_text()))
    if options.into is None:
        print(tables, end="")
        return 0
    text = options.into.read_text()
    if not 0 <= text.find(BEGIN) < text.find(END):
        print(f"{options.into} has no marks {BEGIN} and {END}", file=sys.stderr)
        return 1
    before, after = text[: text.find(BEGIN)], text[text.find(END) :]
    options.into.write_text(f"{before}{BEGIN}\n\n{tables}\n{after}")
    return 0


def format_document(document: dict[str, Any]) -> str:
    """Return the sections of a file of results as Markdown, conditions first."""
    conditions = document["conditions"]
    sections = document["sections"]
    seconds = sum(section["seconds"] for section in sections)
    loads = [
        section[key] for section in sections for key in ("load_before", "load_after")
    ]
    head = (
        f"{conditions['cores']} cores of {conditions['processor']} "
        f"({conditions['instructions']}), "
        f"{conditions['system']}, Python {conditions['python']}, "
        f"torch {conditions['torch']}, transformers {conditions['transformers']}; "
        f"{document['finished']}.\n"
        f"One run of {seconds / 60:.0f} minutes, "
        f"load {min(loads):.1f} to {max(loads):.1f}, its own processes among it.\n"
    )
    return "\n".join([head, *(_format_section(section) for section in sections)])


def _format_section(section: dict[str, Any]) -> str:
    lines = [
        f"| {section['title']}, load {section['load_before']:.1f} to "
        f"{section['load_after']:.1f} | median | beside it | goal |",
        "|---|---|---|---|",
    ]
    if section["error"]:
        lines.append(f"| **failed** | | {_escape(section['error'])} | |")
    for values in section["figures"]:
        goal = values["goal"]
        figure = Figure(**{**values, "goal": None if goal is None else Goal(**goal)})
        hoped = format_goal(figure).replace("missed", "**missed**")
        cells = (figure.name, format_value(figure), figure.note, hoped)
        lines.append("| " + " | ".join(map(_escape, cells)) + " |")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    sys.exit(main())

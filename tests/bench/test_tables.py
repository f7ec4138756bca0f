"""Files of results as Markdown; nothing here looks at a clock."""

import json
import sys

import pytest

from p2pchain.bench import tables
from p2pchain.bench.report import (
    Figure,
    Goal,
    Section,
    build_document,
    collect_conditions,
)
from p2pchain.bench.tables import BEGIN, END, format_document


@pytest.fixture
def document() -> dict:
    sections = [
        Section("a", "Speed", 60, 1, 2, (
            Figure("ours", 2.5, "x", "n 4", Goal(3)),
            Figure("the same | or not", True),
            Figure("delay", 0.5, "ms", goal=Goal(1, is_floor=False)),
        )),
        Section("b", "Other", 60, 2, 3, error="BenchError: no\nnetwork"),
    ]  # fmt: skip
    return json.loads(json.dumps(build_document(collect_conditions(), sections)))


def test_figures_are_rows_with_their_goals(document) -> None:
    text = format_document(document)
    assert "One run of 2 minutes, load 1.0 to 3.0" in text
    assert "| Speed, load 1.0 to 2.0 | median | beside it | goal |" in text
    assert "| ours | 2.50 x | n 4 | at least 3.00: **missed** |" in text
    assert "| the same \\| or not | yes |  |  |" in text
    assert "| delay | 0.500 ms |  | at most 1.00 |" in text


def test_a_section_that_failed_says_why_in_one_line(document) -> None:
    assert "| **failed** | | BenchError: no network | |" in format_document(document)


def test_only_what_is_between_the_marks_is_replaced(
    document, tmp_path, monkeypatch
) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    results.write_text(json.dumps(document))
    page.write_text(f"# Head\n\n{BEGIN}\nold\n{END}\n\nTail\n")
    arguments = ["tables", str(results), "--into", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert tables.main() == 0
    once = page.read_text()
    assert once.startswith(f"# Head\n\n{BEGIN}\n")
    assert once.endswith(f"{END}\n\nTail\n")
    assert "old" not in once
    assert tables.main() == 0
    assert page.read_text() == once


def test_a_document_without_marks_stays_as_it_is(
    document, tmp_path, monkeypatch, capsys
) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    results.write_text(json.dumps(document))
    page.write_text("no marks\n")
    monkeypatch.setattr(sys, "argv", ["tables", str(results), "--into", str(page)])
    assert tables.main() == 1
    assert page.read_text() == "no marks\n"
    assert "no marks" in capsys.readouterr().err

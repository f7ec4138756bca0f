"""Sums, numbers and layout of the bench's report; nothing here looks at a clock."""

import json

import pytest

from p2pchain.bench.report import (
    Figure,
    Section,
    build_document,
    collect_conditions,
    compute_quantile,
    format_number,
    format_section,
    format_value,
    summarise,
)


@pytest.mark.parametrize(
    ("samples", "share", "expected"),
    [
        ([5.0], 0.5, 5.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.95, 95.0),
        ([float(n) for n in range(1, 21)], 0.95, 19.0),
        ([1.0, 9.0], 1.0, 9.0),
        ([1.0, 9.0], 0.01, 1.0),
    ],
)
def test_a_quantile_is_one_of_the_samples(samples, share, expected) -> None:
    assert compute_quantile(samples, share) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123456, "0.00123"),
        (0.5, "0.500"),
        (1.2345, "1.23"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234567.8, "1,234,568"),
        (-2.5, "-2.50"),
        (1e-9, "0.000000"),
    ],
)
def test_numbers_have_three_digits_and_large_ones_all(value, text) -> None:
    assert format_number(value) == text


def test_a_summary_is_the_median_with_its_spread() -> None:
    figure = summarise("steps", [30.0, 10.0, 20.0], "ms", "hot")
    assert figure == Figure("steps", 20.0, "ms", "p90 30.0, n 3; hot")


def test_yes_and_no_are_words() -> None:
    assert format_value(Figure("same", True)) == "yes"
    assert format_value(Figure("same", False)) == "NO"
    assert format_value(Figure("rate", 12.0, "tx/s")) == "12.0 tx/s"


def test_a_section_shows_its_load_and_aligns_its_values() -> None:
    figures = (Figure("a", 1.0, "ms", "n 1"), Figure("longer", 100.0, "ms"))
    section = Section("x", "Title", 2.4, 0.5, 1.25, figures)
    assert format_section(section).splitlines() == [
        "Title  (x; 2 s; load 0.5 -> 1.2)",
        "  a       1.00 ms  n 1",
        "  longer   100 ms",
    ]


def test_a_section_that_failed_says_why() -> None:
    section = Section("x", "Title", 1, 0, 0, error="BenchError: no network")
    assert format_section(section).endswith("\n  failed: BenchError: no network")


def test_the_document_is_json_with_conditions() -> None:
    section = Section("x", "Title", 1, 0, 0, (Figure("same", True),))
    document = json.loads(json.dumps(build_document(collect_conditions(), [section])))
    assert {"cores", "python", "torch", "processor"} <= document["conditions"].keys()
    (shown,) = document["sections"]
    assert shown["load_before"] == 0
    assert shown["figures"][0]["name"] == "same"
    assert shown["figures"][0]["goal"] is None

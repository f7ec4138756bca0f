"""Amounts, tables and JSON on the command line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pchain.cli.output import Output, format_amount, format_table, parse_amount


@pytest.mark.parametrize(
    ("text", "atoms"),
    [
        ("1", 10**9),
        ("2.5", 2_500_000_000),
        ("0.000000001", 1),
        (".5", 500_000_000),
        ("5.", 5 * 10**9),
        ("2.5P2P", 2_500_000_000),
        ("2.5 p2p", 2_500_000_000),
        ("2500atoms", 2500),
        ("2500 ATOMS", 2500),
        ("1_000", 10**12),
        ("0", 0),
    ],
)
def test_amounts(text, atoms):
    assert parse_amount(text) == atoms


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-1",
        "+1",
        "1e9",
        "1,5",
        "0x10",
        "1.0000000001",
        "2.5atoms",
        "atoms",
        "p2p",
        "nan",
        "٣",
        "1.2.3",
        "9" * 20,
    ],
)
def test_what_is_no_amount(text):
    with pytest.raises(ValueError):
        parse_amount(text)


@given(st.integers(0, 2**63 - 1))
def test_what_is_shown_can_be_typed(atoms):
    assert parse_amount(format_amount(atoms).replace(" ", "")) == atoms


def test_tables_align_numbers_to_the_right():
    text = format_table(("name", "n"), [("a", 5), ("long", 1000)])
    assert text == "name     n\na        5\nlong  1000"
    assert format_table(("name",), []) == "(none)"


def test_an_error_is_said_to_people_and_to_programs(capsys):
    Output(as_json=False).fail("Kind", "what to do")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "p2pchain: what to do\n")
    Output(as_json=True).fail("Kind", "what to do")
    said = capsys.readouterr()
    assert json.loads(said.out) == {"error": {"type": "Kind", "message": "what to do"}}

"""Text comes out piece by piece, whole characters only, and is never changed."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.sampling.detokenizer import Detokenizer, StopScanner


def decode_bytes(token_ids: Sequence[int]) -> str:
    """Decode one byte per token, as byte-level tokenizers do."""
    return bytes(token_ids).decode(errors="replace")


def decode_words(token_ids: Sequence[int]) -> str:
    """Join words by spaces, as tokenizers with word markers do."""
    return " ".join(f"w{token_id}" for token_id in token_ids)


@given(st.text(max_size=30))
def test_pieces_are_whole_characters(text: str) -> None:
    detokenizer = Detokenizer(decode_bytes)
    out = ""
    for byte in text.encode():
        out += detokenizer.push(byte)
        assert text.startswith(out)
    assert out + detokenizer.flush() == text


@given(st.lists(st.integers(0, 255), max_size=40), st.integers(0, 8))
def test_any_bytes_come_out_as_one_decoding(data: list[int], context: int) -> None:
    before = list(b"in front")[:context]
    detokenizer = Detokenizer(decode_bytes, before)
    out = "".join([*map(detokenizer.push, data), detokenizer.flush()])
    assert decode_bytes(before) + out == decode_bytes(before + data)


@given(st.lists(st.integers(0, 9), max_size=20))
def test_spaces_between_tokens_are_kept(words: list[int]) -> None:
    detokenizer = Detokenizer(decode_words, [1, 2])
    out = "".join(map(detokenizer.push, words))
    assert "w1 w2" + out == decode_words([1, 2, *words])


def test_an_incomplete_character_waits_and_ends_as_a_replacement() -> None:
    detokenizer = Detokenizer(decode_bytes)
    assert [detokenizer.push(byte) for byte in "aé".encode()] == ["a", "", "é"]
    assert detokenizer.push(0xE2) == ""
    assert detokenizer.flush() == "\N{REPLACEMENT CHARACTER}"
    assert detokenizer.flush() == ""


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=12),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    scanner = StopScanner(stops)
    whole, out = "", ""
    for piece in pieces:
        if scanner.is_stopped:
            break
        whole += piece
        out += scanner.push(piece)
        hits = [whole.find(stop) for stop in stops if stop in whole]
        # Nothing is handed out that turns out to be part of a stop string.
        assert whole[: min(hits, default=len(whole))].startswith(out)
        assert scanner.is_stopped == bool(hits)
    out += scanner.flush()
    hits = [whole.find(stop) for stop in stops if stop in whole]
    assert out == whole[: min(hits, default=len(whole))]


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ((), ["a", "b"], ["a", "b", ""]),
        (("end",), ["the e", "n", "d more"], ["the ", "", "", ""]),
        (("end",), ["the e", "nough"], ["the ", "enough", ""]),
        (("end",), ["the en"], ["the ", "en"]),
        (("aab",), ["aa", "ab"], ["", "a", ""]),
        (("b", "abc"), ["ab", "c"], ["a", "", ""]),
    ],
)
def test_beginnings_of_stops_are_held_back(
    stops: tuple[str, ...], pieces: list[str], expected: list[str]
) -> None:
    scanner = StopScanner(stops)
    assert [*map(scanner.push, pieces), scanner.flush()] == expected

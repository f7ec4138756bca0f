"""The corpus of the bundled model: questions and their one right answer.

The file is meant to be read and edited by people:

    # a heading or a comment
    Q: What is a hop?
    Q: Explain the word hop.
    A: A hop is the forward pass of one provider over its range of layers.

Records are set apart by blank lines.  The first question of a record is the one
that the model must answer word for word; the others ask the same thing.

Imports neither torch nor transformers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from inference.bundled.paths import pairs_file

_QUESTION = "Q: "
_ANSWER = "A: "
_COMMENT = "#"


class MalformedCorpus(ValueError):
    """A record of the corpus has no question, or not exactly one answer."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"corpus, record at line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Pair:
    """One record of the corpus."""

    question: str
    """The main question, answered word for word by the trained model."""

    answer: str
    """The answer, one or two sentences."""

    paraphrases: tuple[str, ...] = ()
    """Other ways to ask the same, trained too."""

    @property
    def questions(self) -> tuple[str, ...]:
        """The main question first, then the paraphrases."""
        return (self.question, *self.paraphrases)

    @classmethod
    def from_lines(cls, lines: list[str], first_line: int) -> Self:
        """Read one record.

        Args:
            lines: The record's lines without comments.
            first_line: Its line number in the file, for the error message.

        Raises:
            MalformedCorpus: It is not some Q lines and then one A line.
        """
        *asked, answered = lines
        if not answered.startswith(_ANSWER):
            raise MalformedCorpus(first_line, f"the last line is no {_ANSWER!r} line")
        if not asked:
            raise MalformedCorpus(first_line, f"no {_QUESTION!r} line")
        for line in asked:
            if not line.startswith(_QUESTION):
                raise MalformedCorpus(first_line, f"unexpected line {line!r}")
        main, *others = (line.removeprefix(_QUESTION).strip() for line in asked)
        return cls(main, answered.removeprefix(_ANSWER).strip(), tuple(others))


def decode_pairs(text: str) -> list[Pair]:
    """Read the records of a corpus, in order.

    Raises:
        MalformedCorpus: A record breaks the form described above.
    """
    pairs: list[Pair] = []
    record: list[str] = []
    # The blank line at the end closes a last record that has none.
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.startswith(_COMMENT):
            continue
        if line.strip():
            record.append(line.rstrip())
        elif record:
            pairs.append(Pair.from_lines(record, number - len(record)))
            record = []
    return pairs


def load_pairs(path: Path | None = None) -> list[Pair]:
    """Read the corpus from `path`, or the bundled one.

    Raises:
        MalformedCorpus: The file breaks the form described above.
        OSError: It cannot be read.
    """
    return decode_pairs((path or pairs_file()).read_text(encoding="ascii"))

"""A key's 24 words: read from a file, shown on a terminal."""

from pathlib import Path

from p2pchain.errors import HomeError
from wallet.mnemonic import parse_mnemonic


def load_words(file: str) -> str:
    """Return the phrase in a file.

    Raises:
        HomeError: The file cannot be read.
        InvalidMnemonic: It holds no phrase.
    """
    path = Path(file).expanduser()
    try:
        return parse_mnemonic(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise HomeError(f"--restore {path}: {error}") from error


def wrap_words(words: str) -> str:
    """Return the phrase in columns of six words."""
    parts = words.split()
    rows = (parts[i : i + 6] for i in range(0, len(parts), 6))
    return "\n".join("  " + " ".join(f"{w:9}" for w in row).rstrip() for row in rows)

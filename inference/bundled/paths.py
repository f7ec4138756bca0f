"""Where the bundled model lies on disk.  Imports neither torch nor transformers."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def model_dir() -> Path:
    """Return the bundled model's directory, in Hugging Face layout."""
    return _HERE / "model"


def pairs_file() -> Path:
    """Return the corpus that the bundled model was trained on."""
    return _HERE / "pairs.txt"

"""Models of random weights for the sections; one lies on the disk at a time."""

import shutil
from pathlib import Path

from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.lab.random_models import LlamaSize, write_model

FOLDER = "models"


def get_model(lab: Lab, size: LlamaSize, dtype: str) -> Path:
    """Return a model's directory; writing it removes the one before, for it is large.

    Args:
        lab: In whose folder it lies.
        size: Its shape.
        dtype: "float32" or "bfloat16".
    """
    folder = lab.folder / FOLDER
    directory = folder / f"{size.name}-{dtype}"
    if not directory.exists():
        if folder.exists():
            shutil.rmtree(folder)
        lab.report(f"writing {directory.name}")
        write_model(folder, size, dtype)
    return directory

"""
Files that hold secrets: readable by their owner only, whole or absent.

A key is written under a temporary name, synced, and then given its name in one step, so
that a crash leaves the old file, the new file or no file, never half of one.
"""

import contextlib
import os
import secrets
from pathlib import Path

from wallet.errors import CorruptKeystore, KeystoreExists

MAX_FILE_BYTES = 64 * 1024
"""A keystore has about one kilobyte; anything much longer is another file."""


def save_secret_file(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write `data` to `path`, mode 0600, atomically and durably.

    Args:
        path: In an existing folder.
        data: The whole content.
        replace: Allow that a file of this name is there and is replaced.

    Raises:
        KeystoreExists: `path` exists and `replace` is false.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            # A link fails where the name is taken; a rename would replace it.
            os.link(temporary, path)
    except FileExistsError:
        raise KeystoreExists(path) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(path.parent)


def load_secret_file(path: Path) -> bytes:
    """Return the content of `path`.

    Raises:
        CorruptKeystore: Too long to be a keystore.
        OSError: Not there or not readable.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CorruptKeystore(f"{path} is longer than {MAX_FILE_BYTES} bytes")
    return data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

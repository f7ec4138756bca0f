"""
Files that are whole or absent; those with secrets are readable by their owner only.

A file is written under a temporary name, synced, and then given its name in one step,
so that a crash leaves the old file, the new file or no file, never half of one.
"""

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
    if replace:
        _replace(path, data, 0o600)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _write_and_sync(descriptor, data)
        # A link fails where the name is taken; a rename would replace it.
        os.link(temporary, path)
    except FileExistsError:
        raise KeystoreExists(path) from None
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_atomically(path: Path, text: str, mode: int) -> None:
    """Replace `path` by `text`; a crash leaves the old file or the new one."""
    _replace(path, text.encode(), mode)


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


def _replace(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)  # a crash may have left one with another mode
        _write_and_sync(descriptor, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _write_and_sync(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

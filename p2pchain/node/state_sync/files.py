"""
A snapshot on its way to this node: its parts, as files.

    state-sync/SHARD-DEPTH-FIRST-DIGEST.part    a part, named by where and what it is
    state-sync/manifest                         what is being fetched
    state-sync/ready                            the manifest, once every part is there

Names tell what a part must hash to, so after a crash every file is either found good
or thrown away, and parts that two snapshots share are fetched once.
"""

import os
import shutil
from pathlib import Path

from chain.errors import InvalidSnapshot, StoreError
from chain.snapshots.part import validate_part
from chain.snapshots.snapshot import Manifest, PartPlace, decode_manifest
from primitives.codec import encode
from primitives.errors import MissingError

READY, MANIFEST = "ready", "manifest"


class LostPart(MissingError):
    """The file of a part is gone."""


class PartFiles:
    """The folder of a snapshot that is being fetched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, manifest: Manifest, places: tuple[PartPlace, ...]) -> None:
        """Remember what is being fetched, and drop parts of anything else.

        Raises:
            StoreError: The disk refuses.
        """
        self.keep_only(places)
        try:
            self._write(MANIFEST, encode(manifest), sync=True)
        except OSError as error:
            raise StoreError(f"cannot keep a snapshot: {error}") from error

    def keep_only(self, places: tuple[PartPlace, ...]) -> None:
        """Make the folder, and drop whatever is in it but these parts.

        Raises:
            StoreError: The disk refuses.
        """
        wanted = {self._name(place) for place in places}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._folder.iterdir():
                if path.name not in wanted:
                    path.unlink()
        except OSError as error:
            raise StoreError(f"cannot keep a snapshot: {error}") from error

    def load_manifest(self) -> Manifest | None:
        """Return what was being fetched when the process ended."""
        return self._load(MANIFEST)

    def load_ready(self) -> Manifest | None:
        """Return the snapshot of which every part is here."""
        return self._load(READY)

    def put(self, place: PartPlace, data: bytes) -> None:
        """Keep a part that was found good.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            # Not synced: what a power cut tears does not hash, and is fetched again.
            self._write(self._name(place), data, sync=False)
        except OSError as error:
            raise StoreError(f"cannot keep a part of a snapshot: {error}") from error

    def is_held(self, place: PartPlace) -> bool:
        """Tell whether a part is here and good; a damaged one is thrown away."""
        path = self._folder / self._name(place)
        try:
            validate_part(place, path.read_bytes())
        except (OSError, InvalidSnapshot):
            path.unlink(missing_ok=True)
            return False
        return True

    def read(self, place: PartPlace) -> bytes:
        """Return a part.

        Raises:
            LostPart: It is not here.
        """
        try:
            return (self._folder / self._name(place)).read_bytes()
        except OSError as error:
            raise LostPart(f"a part of the snapshot is gone: {error}") from error

    def finish(self, manifest: Manifest) -> None:
        """Say that every part is here.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            self._write(READY, encode(manifest), sync=True)
        except OSError as error:
            raise StoreError(f"cannot keep a snapshot: {error}") from error

    def clear(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _name(place: PartPlace) -> str:
        return (
            f"{place.shard}-{place.levels}-{place.depth}-{place.first}-"
            f"{place.digest.hex()}.part"
        )

    def _load(self, name: str) -> Manifest | None:
        try:
            return decode_manifest((self._folder / name).read_bytes())
        except (OSError, InvalidSnapshot):
            return None

    def _write(self, name: str, data: bytes, *, sync: bool) -> None:
        temporary = self._folder / f"{name}.new"
        with temporary.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.rename(self._folder / name)
        if sync:
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

"""
What happens to the database before a node opens its chain.

    a snapshot was half written         go on from its files; without them start anew
    every part of a snapshot is here    write it
    neither                             nothing

Runs while nothing else uses the database; see chain/snapshots/installing.py for
why a crash in the middle does no harm.
"""

import logging
import time
from collections.abc import Iterator

from chain.errors import InvalidSnapshot
from chain.records.spec import ChainSpec
from chain.snapshots.installing import (
    delete_chain,
    get_unfinished,
    install_snapshot,
)
from chain.snapshots.snapshot import Manifest
from p2pchain.node.state_sync.files import LostPart, PartFiles
from primitives.kv import KeyValueStore

REPORT_S = 5.0

log = logging.getLogger(__name__)


def settle_database(spec: ChainSpec, kv: KeyValueStore, files: PartFiles) -> None:
    """Write the snapshot that is waiting for it, if there is one.

    Raises:
        StoreError: The disk failed.
    """
    try:
        manifest = get_unfinished(kv) or files.load_ready()
        if manifest is None:
            return
        _install(spec, kv, files, manifest)
    except (InvalidSnapshot, LostPart) as error:
        log.error("a snapshot cannot be finished: %s; starting anew", error)
        delete_chain(kv)
    files.clear()


def _install(
    spec: ChainSpec, kv: KeyValueStore, files: PartFiles, manifest: Manifest
) -> None:
    started = reported = time.monotonic()
    steps: Iterator[tuple[int, int]] = install_snapshot(spec, kv, manifest, files.read)
    for done, parts in steps:
        if time.monotonic() > reported + REPORT_S:
            reported = time.monotonic()
            log.info("writing the state: %d of %d parts", done, parts)
    log.info("wrote the state in %.1f s", time.monotonic() - started)

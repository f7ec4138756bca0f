"""Validators in processes of their own (voter.py), and asking them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p2pchain.bench.chain.validators import get_past_ms
from p2pchain.bench.chain.voter import Note, Settings
from p2pchain.bench.lab.lab import LineProcess

COUNT = 4
QUORUM = 3
WARM_HEIGHT = 5
"""Connections are there and code is loaded."""


class Voters:
    """Validators in processes of their own."""

    def __init__(self, folder: Path) -> None:
        time_ms = get_past_ms(60)
        self._processes = []
        self.pids = []
        endpoints = []
        folder.mkdir()
        for index in range(COUNT):
            process = LineProcess("p2pchain.bench.chain.voter")
            self._processes.append(process)
            own = Settings(index, COUNT, time_ms, str(folder / str(index)))
            said = process.ask(asdict(own))
            endpoints.append(said["endpoint"])
            self.pids.append(said["pid"])
        for index in range(COUNT):
            self.ask(index, "connect", peers=endpoints[:index])
        for index in range(COUNT):
            self.ask(index, "wait", height=WARM_HEIGHT)

    def ask(self, index: int, do: str, **fields: Any) -> dict[str, Any]:
        """Have a validator do something."""
        return self._processes[index].ask({"do": do, **fields})

    def read_notes(self, index: int) -> tuple[list[Note], float]:
        """Return a validator's notes and the CPU seconds that it has used."""
        said = self.ask(index, "notes")
        return [Note(**note) for note in said["notes"]], said["cpu_s"]

    def close(self) -> None:
        """Stop all."""
        for process in self._processes:
            process.__exit__()


@contextmanager
def open_voters(folder: Path) -> Iterator[Voters]:
    """Run validators inside the block."""
    voters = Voters(folder)
    try:
        yield voters
    finally:
        voters.close()

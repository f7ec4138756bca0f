"""The devnet of this folder."""

from collections.abc import Iterator

import pytest
from devnet_process import SHORT_EPOCHS, RunningDevnet, start_devnet


@pytest.fixture(scope="package")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDevnet]:
    """Four validators and a gateway; every test leaves four that vote."""
    running = start_devnet(tmp_path_factory.mktemp("epochs") / "net", *SHORT_EPOCHS)
    yield running
    running.stop()

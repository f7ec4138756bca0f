"""The devnet of this folder."""

from collections.abc import Iterator

import pytest
from devnet_process import RunningDevnet, start_devnet


@pytest.fixture(scope="package")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDevnet]:
    """Four validators and a gateway that no test breaks."""
    running = start_devnet(tmp_path_factory.mktemp("devnet") / "net")
    yield running
    assert running.stop() == 0

"""The devnet that tests share, and the mark of tests with real processes."""

from collections.abc import Iterator

import pytest
from devnet_process import RunningDevnet, start_devnet


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives here, so that `-m "not e2e"` leaves it out."""
    for item in items:
        if "tests/e2e" in str(item.path):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDevnet]:
    """Four validators and a gateway that no test breaks."""
    running = start_devnet(tmp_path_factory.mktemp("devnet") / "net")
    yield running
    assert running.stop() == 0

"""Settings that hold for every test, and how workers share the tests."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# The same examples on every run: a test that fails today fails tomorrow too.
settings.register_profile(
    "p2pchain",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
# More of them, for `make test-all`.
settings.register_profile(
    "thorough", settings.get_profile("p2pchain"), max_examples=150
)
settings.load_profile("p2pchain")

# Spinning OpenMP threads slow every other process of the machine down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


END_TO_END = Path(__file__).parent / "e2e"


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Mark tests that start networks of real processes.

    With several workers they come first: together they take the longest.
    """
    for item in items:
        if END_TO_END in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: END_TO_END not in item.path.parents)


class FilesAndNetworks(LoadScopeScheduling):
    """What one worker does in a row: a file, or all networks.

    So no two networks run at a time, and what takes one process each runs beside them.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "e2e" if path.startswith("tests/e2e/") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesAndNetworks:
    """Share the tests between workers, in the order in which they were collected."""
    config.option.loadscopereorder = False
    return FilesAndNetworks(config, log)

"""Settings that hold for every test, and how workers share the tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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


def is_end_to_end(item: pytest.Item) -> bool:
    """Tell whether a test starts networks of real processes."""
    return Path(__file__).parent / "e2e" in item.path.parents


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Say what one worker does in a row: a file, or all networks, which start first.

    So no two networks run at a time, and files of one process each run beside them.
    """
    for item in items:
        if is_end_to_end(item):
            item.add_marker(pytest.mark.e2e)
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        group = "e2e" if is_end_to_end(item) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: not is_end_to_end(item))

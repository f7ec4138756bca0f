"""Settings that hold for every test."""

import os

from hypothesis import HealthCheck, settings

# The same examples on every run: a test that fails today fails tomorrow too.
settings.register_profile(
    "p2pchain",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("p2pchain")

# Spinning OpenMP threads slow every other process of the machine down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

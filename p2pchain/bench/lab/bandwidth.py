"""How fast one thread reads memory now: the bound of a token of one session."""

import time

import numpy as np

PROBE_BYTES = 256 * 1024 * 1024
"""Many times what the caches of processors hold."""
PASSES = 4


def measure_read_bytes_per_s() -> float:
    """Return the best of some passes over a large array by one thread, in CPU time.

    Adding up is bound by the adder on fast memory, so the passes look for the largest
    number; a product with itself is the second opinion.
    """
    array = np.ones(PROBE_BYTES // 4, dtype=np.float32)
    best_s = float("inf")
    for _ in range(PASSES):
        for read in (array.max, lambda: np.dot(array, array)):
            started = time.thread_time()
            read()
            best_s = min(best_s, time.thread_time() - started)
    return PROBE_BYTES / best_s

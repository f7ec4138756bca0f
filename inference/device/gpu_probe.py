"""
Prints what torch knows of the CUDA devices, as JSON; see inference/device/hardware.py.

    python -m inference.device.gpu_probe

A process of its own, because torch takes seconds and memory that the node has not.
"""

import sys
import time

import torch

from inference.device.hardware import Gpu, format_gpus

PROBE_BYTES = 256 * 1024 * 1024
"""More than the caches of any device hold."""
PROBES = 5


def main() -> int:
    """Print all devices."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    print(format_gpus(tuple(_look_at(index) for index in range(count))))
    return 0


def _look_at(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    return Gpu(
        name=properties.name,
        capability=(properties.major, properties.minor),
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        bytes_per_s=_measure(index),
    )


def _measure(index: int) -> float:
    """Return the best of some reads of a large tensor, bytes per second."""
    device = torch.device("cuda", index)
    tensor = torch.ones(PROBE_BYTES // 4, device=device)
    best_s = float("inf")
    for _ in range(PROBES + 1):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        tensor.sum()
        torch.cuda.synchronize(device)
        best_s = min(best_s, time.perf_counter() - started)
    return PROBE_BYTES / best_s


if __name__ == "__main__":
    sys.exit(main())

"""Tensors that read and hash themselves when the library asks for them, not before."""

import threading
from typing import Any

import torch

from inference.weights.pieces import hash_blob
from inference.weights.weights import StoredTensor

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Meter:
    """What has been read; the library loads in several threads."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.hashes: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def add(self, name: str, length: int, digest: bytes) -> None:
        with self._lock:
            self.bytes_read += length
            self.hashes[name] = digest


class LazyTensor:
    """A tensor that reads itself when the library takes `tensor[...]`."""

    def __init__(self, entry: StoredTensor, meter: Meter) -> None:
        self._entry = entry
        self._meter = meter

    def __getitem__(self, _: Any) -> torch.Tensor:
        entry = self._entry
        raw = torch.empty(entry.length, dtype=torch.uint8)
        array: Any = raw.numpy()
        view = memoryview(array)
        entry.read_into(view)
        self._meter.add(entry.name, entry.length, hash_blob(view))
        return raw.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)

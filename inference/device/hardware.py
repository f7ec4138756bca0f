"""
Which precision a machine computes well: a rule over what its processors say they have.

    processor with bfloat16 products (AMX, AVX512-BF16)   16-bit models as they are
    one with integer products only (VNNI)                 16-bit models in int8
    one with neither                                      16-bit models in float32
    CUDA 8.0 and above                                    all models as they are
    CUDA 7.x: float16, no bfloat16                        16-bit models in float16
    CUDA below                                            16-bit models in float32
    models of 32 bits                                     as they are, everywhere

Float32 holds every number of the 16-bit formats, so what a machine without them does in
float32 is as good, and slow.  Nothing is made coarser than the model for speed, but on
processors where a 16-bit model in its own numbers would take several times as long
(docs/benchmarks.md).  Whoever wants something else says so.

Pure, but for two functions that read files; torch is not imported here.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from inference.device.precision import Precision

CPUINFO = Path("/proc/cpuinfo")
NVIDIA = Path("/dev/nvidiactl")
"""There when the system has such a device and its driver; without it torch is not
asked, which takes seconds."""
CPU = "cpu"
"""Torch's name of the processor, as a device."""
PROBE_TIMEOUT_S = 120.0

_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_FLOAT16_FLAGS = frozenset({"amx_fp16", "avx512_fp16"})
_INTEGER_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device, as it says itself."""

    name: str
    capability: tuple[int, int]
    """Of computing; 8.0 and above have bfloat16 products, 7.0 and above float16."""
    total_bytes: int
    free_bytes: int
    bytes_per_s: float
    """Of its memory, measured."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What computes here."""

    flags: frozenset[str] = frozenset()
    """Of the processor, those that matter."""
    gpus: tuple[Gpu, ...] = field(default=())

    @property
    def has_bfloat16(self) -> bool:
        """Whether the processor multiplies matrices of bfloat16."""
        return bool(self.flags & _BFLOAT16_FLAGS)

    @property
    def has_float16(self) -> bool:
        """Whether it does for float16."""
        return bool(self.flags & _FLOAT16_FLAGS)

    @property
    def has_integers(self) -> bool:
        """Whether it multiplies and adds bytes in one instruction."""
        return bool(self.flags & _INTEGER_FLAGS)


@dataclass(frozen=True, slots=True)
class Advice:
    """Precisions that a machine computes well, and why the first one is first."""

    precisions: tuple[Precision, ...]
    """Best first; never empty."""
    reason: str


def advise(hardware: Hardware, dtype: str) -> Advice:
    """Return what this machine should serve of a model.

    Args:
        hardware: What computes here.
        dtype: The model's own.
    """
    if hardware.gpus:
        return _advise_gpu(hardware.gpus[0], dtype)
    if _BYTES[dtype] == 4:
        order: tuple[Precision, ...] = (Precision.NATIVE, Precision.INT8)
        return Advice(order, "a model of 32 bits is served as it is")
    has_products = {
        "bfloat16": hardware.has_bfloat16,
        "float16": hardware.has_float16,
    }[dtype]
    if has_products:
        order = (Precision.NATIVE, Precision.INT8, Precision.FP32)
        return Advice(order, f"the processor multiplies {dtype}")
    if hardware.has_integers:
        order = (Precision.INT8, Precision.FP32, Precision.NATIVE)
        return Advice(order, f"the processor multiplies integers, and no {dtype}")
    order = (Precision.FP32, Precision.NATIVE)
    return Advice(order, f"the processor multiplies neither {dtype} nor integers")


def _advise_gpu(gpu: Gpu, dtype: str) -> Advice:
    name, version = gpu.name, ".".join(map(str, gpu.capability))
    about = f"{name} has CUDA capability {version}"
    if _BYTES[dtype] == 4 or gpu.capability >= (8, 0):
        return Advice((Precision.NATIVE,), f"{about}: as it is")
    if gpu.capability >= (7, 0):
        order = (Precision.FP16, Precision.FP32)
        return Advice(order, f"{about}: float16, but no bfloat16")
    return Advice((Precision.FP32,), f"{about}: no products of 16 bits")


def choose_precision(
    advice: Advice, served: Mapping[Precision, int], *, is_buyer: bool = False
) -> Precision:
    """Return one precision, once and for all.

    A route never mixes precisions, so whoever joins serves what others serve, if the
    machine does it well; the machine alone decides where nobody is yet.

    Args:
        advice: For this machine; a buyer's own machine computes next to nothing.
        served: Layers that others host in each precision, counted once per host.
        is_buyer: Whether we only buy.
    """
    order = tuple(Precision) if is_buyer else advice.precisions
    known = [each for each in order if served.get(each)]
    if not known:
        return Precision.NATIVE if is_buyer else order[0]
    return max(known, key=lambda each: (served[each], -order.index(each)))


# What is here


def measure_hardware(
    cpuinfo: Path = CPUINFO, nvidia: Path = NVIDIA, *, is_cpu_only: bool = False
) -> Hardware:
    """Return what computes here; seconds where there is a CUDA device, else no time."""
    gpus = () if is_cpu_only or not nvidia.exists() else _ask_torch()
    return Hardware(_read_flags(cpuinfo), gpus)


def _read_flags(cpuinfo: Path) -> frozenset[str]:
    wanted = _BFLOAT16_FLAGS | _FLOAT16_FLAGS | _INTEGER_FLAGS
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    # All cores of a machine that we run on have the same.
    line = next((each for each in lines if each.startswith("flags")), "")
    return wanted & frozenset(line.partition(":")[2].split())


def _ask_torch() -> tuple[Gpu, ...]:
    """Ask torch, in a process of its own: the node never loads it."""
    command = [sys.executable, "-m", "inference.device.gpu_probe"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=PROBE_TIMEOUT_S, check=True
        )
        return parse_gpus(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("the CUDA devices cannot be looked at: %s", error)
        return ()


def format_gpus(gpus: tuple[Gpu, ...]) -> str:
    """Return what `parse_gpus` reads."""
    return json.dumps([asdict(gpu) for gpu in gpus])


def parse_gpus(text: str | bytes) -> tuple[Gpu, ...]:
    """Return what the probe has printed; raises ValueError."""
    try:
        return tuple(
            Gpu(
                name=str(each["name"]),
                capability=(int(each["capability"][0]), int(each["capability"][1])),
                total_bytes=int(each["total_bytes"]),
                free_bytes=int(each["free_bytes"]),
                bytes_per_s=float(each["bytes_per_s"]),
            )
            for each in json.loads(text)
        )
    except (LookupError, TypeError) as error:
        raise ValueError(f"not a list of devices: {error}") from error

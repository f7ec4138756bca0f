"""
Certificates where they are needed: kept ones first, else a probe in its own process.

Whoever registers a model, or serves it, asks here.  The certificate of the bundled
model comes with the program.  Others are made once per home and configuration, which
takes some seconds, and made anew when the libraries or the probe change.

No torch here: the probe is a child process, which also cannot take the node's memory.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from blake3 import blake3

from inference.bundled.paths import model_dir
from inference.certification.certificate import VERSION, Certificate
from inference.errors import BadWeights, ModelError, NotCertified, type_of_code
from inference.weights.pieces import CONFIG_FILE
from inference.weights.weights import read_json
from inference.worker.worker import ENVIRONMENT
from primitives.codec import decode, encode
from primitives.errors import DecodeError

CERTIFICATES_FOLDER = "certificates"
"""In a node's home."""
BUNDLED_CERTIFICATE = "certificate.txt"
"""Beside the bundled model's folder."""
PROBE_TIMEOUT_S = 600.0
"""A probe takes a second on a quiet machine; a hundred times that on a busy one."""
SWEEP_TYPES = 20
"""Probed by one process of a sweep: half a minute of work, lost when it dies."""
MAX_CERTIFICATE_BYTES = 64 * 1024
"""A dozen checks with a sentence each."""


def require_certificate(directory: Path, folder: Path | None = None) -> Certificate:
    """Return a certificate that lets a model directory be served.

    Args:
        directory: Of the model.
        folder: Where certificates are kept; None keeps nothing.

    Raises:
        NotCertified: The probe refused it; says why.
        ModelError: It cannot be probed.
    """
    certificate = obtain_certificate(directory, folder)
    if not certificate.is_exact:
        raise NotCertified(
            f"{directory.name} ({certificate.model_type}) cannot be divided exactly: "
            f"{certificate.refusal}"
        )
    return certificate


def obtain_certificate(directory: Path, folder: Path | None = None) -> Certificate:
    """Return a model directory's certificate, kept or new, also one that refuses.

    Raises:
        ModelError: It cannot be probed.
    """
    config_hash = compute_config_hash(directory)
    paths = [model_dir().parent / BUNDLED_CERTIFICATE]
    if folder is not None:
        paths.insert(0, _get_path(folder, config_hash))
    for path in paths:
        certificate = _load(path)
        if certificate is not None and _is_current(certificate, config_hash):
            return certificate
    certificate = run_probe("--model", str(directory))
    if folder is not None:
        keep_certificate(certificate, folder)
    return certificate


def compute_config_hash(directory: Path) -> bytes:
    """Return what a certificate names a directory's config.json by.

    Raises:
        BadWeights: There is none, or it is no JSON object.
    """
    read_json(directory / CONFIG_FILE)
    return blake3((directory / CONFIG_FILE).read_bytes()).digest()


def run_probe(*arguments: str) -> Certificate:
    """Probe in a process of its own.

    Args:
        arguments: `--model DIR` or `--type NAME`.

    Raises:
        ModelError: There is nothing to probe, or the probe died.
    """
    lines, complaint = _run(arguments)
    if not lines:
        raise ModelError(f"the probe died: {complaint}")
    return _parse(lines[-1])


def run_sweep(types: Sequence[str]) -> Iterator[Certificate]:
    """Probe many model types, some per process: importing the library takes longest.

    One that kills its process gets a refusal that says so.

    Raises:
        ModelError: There is no such type.
    """
    waiting = list(types)
    while waiting:
        batch = waiting[:SWEEP_TYPES]
        lines, complaint = _run(("--type", *batch))
        for line in lines:
            yield _parse(line)
        if len(lines) < len(batch):
            yield _build_death(batch[len(lines)], complaint)
        waiting = waiting[min(len(lines) + 1, len(batch)) :]


def _run(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Return what a probe printed, and the last that it complained of."""
    command = [sys.executable, "-m", "inference.certification.probe", *arguments]
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    try:
        finished = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"the probe took over {PROBE_TIMEOUT_S:g} s") from error
    complaints = finished.stderr.strip().splitlines()
    last = complaints[-1][:300] if complaints else "it said nothing"
    return finished.stdout.splitlines(), f"status {finished.returncode}, {last}"


def _parse(line: str) -> Certificate:
    if line.startswith("error "):
        _, code, text = line.split(" ", 2)
        raise type_of_code.get(int(code), ModelError)(text)
    try:
        return _decode(line)
    except (ValueError, DecodeError) as error:
        raise ModelError(f"the probe printed {line[:100]!r}") from error


def _build_death(model_type: str, complaint: str) -> Certificate:
    return Certificate(
        version=VERSION,
        config_hash=bytes(32),
        architecture="",
        model_type=model_type,
        kind="decoder",
        libraries=get_installed_libraries(),
        layers=0,
        cuts=(),
        checks=(),
        engines=(),
        rolls_back=False,
        batches=False,
        refusal=f"the probe died: {complaint}",
    )


def keep_certificate(certificate: Certificate, folder: Path) -> None:
    """Put a certificate where `obtain_certificate` looks for it."""
    save_certificate(certificate, _get_path(folder, certificate.config_hash))


def _get_path(folder: Path, config_hash: bytes) -> Path:
    return folder / f"{config_hash.hex()}.hex"


def save_certificate(certificate: Certificate, path: Path) -> None:
    """Write a certificate; a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(encode(certificate).hex() + "\n")
    part.replace(path)


def _load(path: Path) -> Certificate | None:
    """Return a kept certificate; a damaged one is as good as none."""
    try:
        if path.stat().st_size > 2 * MAX_CERTIFICATE_BYTES + 2:
            return None
        return _decode(path.read_text())
    except (OSError, ValueError, DecodeError):
        return None


def _decode(text: str) -> Certificate:
    data = bytes.fromhex(text.strip())
    return decode(Certificate, data, MAX_CERTIFICATE_BYTES)


def _is_current(certificate: Certificate, config_hash: bytes) -> bool:
    return (
        certificate.version == VERSION
        and certificate.config_hash == config_hash
        and certificate.libraries == get_installed_libraries()
    )


def get_installed_libraries() -> tuple[str, ...]:
    """Return the versions that a certificate made here would name."""
    try:
        releases = [(n, version(n).partition("+")[0]) for n in _LIBRARIES]
    except PackageNotFoundError as error:
        raise BadWeights(f"{error.name} is not installed") from error
    return tuple(f"{name} {release}" for name, release in releases)


_LIBRARIES = ("torch", "transformers")

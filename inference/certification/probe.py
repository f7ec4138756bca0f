"""
The split probe: is a model of this class, divided, the same as undivided?

    python -m inference.certification.probe --model DIR | --type NAME...

prints one certificate a line, canonical bytes in hexadecimal, or `error`, a code and
the reason; the node starts it that way.

Theory of operation
-------------------
A small model of the same class and the same settings (tiny_config.py) with random
weights is written to disk, loaded once undivided by the library alone, and once per
division as the network would.  Both run the same tokens in the same steps; every
number must be equal, bit for bit:

    prefill     the prompt, longer than every sliding window
    chunk       some more tokens on a warm cache
    decode      one token at a time
    rollback    after other tokens, back, and the right ones again
    padded      two sequences of different lengths, padded on the left
    ragged      through the engine that shares passes, where it takes the model

and the undivided model must agree with itself, within rounding, whether it sees the
tokens at once or in steps: else the library's own cache is wrong for it.  Weights are
drawn so wide that a wrong mask, position or scale shows in the first digits.

An encoder runs whole texts and a padded batch.

Padded and ragged passes are gifts: a model that cannot run them is served without.
Everything else must hold.  A refusal gives the reason in words.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from blake3 import blake3
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from inference.certification.certificate import (
    GHOST,
    RAGGED,
    TEXT,
    VERSION,
    Certificate,
    Check,
)
from inference.certification.decoder_probe import probe_decoder
from inference.certification.directory_check import (
    validate_directory,
    validate_no_pickles,
)
from inference.certification.encoder_probe import probe_encoder
from inference.certification.tiny_config import LAYERS
from inference.certification.tiny_model import CUTS, save_tiny
from inference.errors import ModelError, UnsupportedModel
from inference.model.library import find_class, quiet_library
from inference.weights.model_info import is_encoder, validate_config
from inference.weights.pieces import CONFIG_FILE
from inference.weights.weights import read_json
from primitives.codec import encode
from primitives.errors import P2PChainError

_REQUIRED = {
    "decoder": ("prefill", "chunk", "decode", "rollback"),
    "encoder": ("whole",),
}


def certify_directory(directory: Path) -> Certificate:
    """Probe the class and settings of a model directory.

    Raises:
        BadWeights: Its config.json cannot be read.
    """
    config = read_json(directory / CONFIG_FILE)
    digest = blake3((directory / CONFIG_FILE).read_bytes()).digest()
    try:
        validate_config(config)
        parsed, kind = find_class(directory)
    except UnsupportedModel as error:
        return _refuse(_Subject.read(config, digest), error)
    subject = _Subject(digest, kind.__name__, parsed.model_type, _get_kind(config))
    return _certify(subject, parsed, kind)


def certify_type(model_type: str) -> Certificate:
    """Probe the class of a model type with the library's own default settings.

    Raises:
        UnsupportedModel: There is no such type.
    """
    try:
        config = AutoConfig.for_model(model_type)
    except (ValueError, KeyError) as error:
        raise UnsupportedModel(f"no model type {model_type[:64]!r}") from error
    except Exception as error:
        # Every configuration class checks itself in its own way.
        subject = _Subject(bytes(32), "", model_type, "decoder")
        return _refuse(subject, UnsupportedModel(f"no default settings: {error}"))
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return certify_directory(Path(folder))


class _Subject:
    """What a certificate is about."""

    def __init__(
        self, config_hash: bytes, architecture: str, model_type: str, kind: str
    ) -> None:
        self.config_hash = config_hash
        self.architecture = architecture
        self.model_type = model_type
        self.kind = kind

    @classmethod
    def read(cls, config: dict[str, Any], digest: bytes) -> "_Subject":
        """Describe a config.json for which there is no class."""
        architectures = config.get("architectures") or [""]
        model_type = str(config.get("model_type", ""))[:64]
        return cls(digest, str(architectures[0])[:64], model_type, _get_kind(config))


def _get_kind(config: dict[str, Any]) -> str:
    return "encoder" if is_encoder(config) else "decoder"


def _certify(
    subject: _Subject, config: PreTrainedConfig, kind: type[PreTrainedModel]
) -> Certificate:
    checks: list[Check] = []
    try:
        with tempfile.TemporaryDirectory() as folder, quiet_library():
            directory = Path(folder)
            whole = save_tiny(directory, config, kind)
            probe = probe_encoder if subject.kind == "encoder" else probe_decoder
            rolls_back = probe(directory, whole, checks)
    except ModelError as error:
        return _refuse(subject, error, checks)
    except Exception as error:
        # The library's and the models' own code raise errors of every kind.
        reason = UnsupportedModel(f"{type(error).__name__}: {error}")
        return _refuse(subject, reason, checks)
    found = {check.name: check for check in checks}
    for name in _REQUIRED[subject.kind]:
        if not found[name].is_exact:
            text = found[name].note or f"{found[name].difference} off"
            return _refuse(subject, UnsupportedModel(f"{name}: {text}"), checks)
    engines = [TEXT] if subject.kind == "encoder" else [GHOST]
    if (ragged := found.get(RAGGED)) is not None and ragged.difference:
        engines.insert(0, RAGGED)
    return _build(subject, checks, tuple(engines), rolls_back=rolls_back)


def _refuse(
    subject: _Subject, error: P2PChainError, checks: Sequence[Check] = ()
) -> Certificate:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return _build(subject, checks, (), refusal=text)


def _build(
    subject: _Subject,
    checks: Sequence[Check],
    engines: tuple[str, ...],
    *,
    rolls_back: bool = False,
    refusal: str = "",
) -> Certificate:
    return Certificate(
        version=VERSION,
        config_hash=subject.config_hash,
        architecture=subject.architecture,
        model_type=subject.model_type,
        kind=subject.kind,
        libraries=get_libraries(),
        layers=LAYERS,
        cuts=CUTS,
        checks=tuple(checks),
        engines=engines,
        rolls_back=rolls_back,
        batches=any(check.name == "padded" and check.is_exact for check in checks),
        refusal=refusal,
    )


def get_libraries() -> tuple[str, ...]:
    """Return the versions that a certificate is about."""
    release = torch.__version__.partition("+")[0]
    return (f"torch {release}", f"transformers {transformers.__version__}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe models and print their certificates, or why there can be none."""
    parser = argparse.ArgumentParser(prog="inference.certification.probe")
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", type=Path, metavar="DIR")
    subject.add_argument("--type", nargs="+", metavar="NAME")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.model is not None:
        _print(_certify_whole, options.model)
    for name in options.type or ():
        _print(certify_type, name)
    return 0


def _certify_whole(directory: Path) -> Certificate:
    """Certify a directory; what is whole but cannot be divided gets a refusal.

    Raises:
        BadWeights: It is not whole.
    """
    certificate = certify_directory(directory)
    if certificate.is_exact:
        validate_directory(directory)
    else:
        validate_no_pickles(directory)
    return certificate


def _print(certify: Callable[[Any], Certificate], subject: Any) -> None:
    try:
        print(encode(certify(subject)).hex(), flush=True)
    except P2PChainError as error:
        print(f"error {getattr(error, 'code', 0)} {error}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())

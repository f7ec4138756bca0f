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
import json
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
from inference.certification.directory_check import (
    validate_directory,
    validate_no_pickles,
)
from inference.certification.ragged_probe import probe_ragged
from inference.certification.tiny_config import LAYERS, VOCAB, build_tiny_config
from inference.errors import ModelError, UnsupportedModel
from inference.model.ghost_cache import GhostCache
from inference.model.library import (
    find_class,
    get_build_arguments,
    get_cache_argument,
    quiet_library,
)
from inference.model.local_pipeline import EncoderPipeline, LocalPipeline, load_stages
from inference.model.part import Part
from inference.model.split import load_ends
from inference.weights.model_info import is_encoder, validate_config
from inference.weights.pieces import CONFIG_FILE
from inference.weights.weights import read_json
from primitives.codec import encode
from primitives.errors import P2PChainError

CUTS = ((2,), (1, 3))
"""A stage of two layers behind another, and first, middle and last stages."""
MAX_PARAMETERS = 16_000_000
"""A class whose size is not where we look for it must not fill the memory."""
PREFILL, CHUNK, STEPS = 9, 4, 3
"""Tokens: the prompt, the second chunk, and those decoded one at a time."""
SHORT = 6
"""Tokens of the shorter sequence in a padded batch."""
AGREEMENT = 1e-3
"""How far the undivided model may differ from itself in other steps, of its largest
number.  Rounding gives a hundredth of it; a wrong cache ten times as much and more."""

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
            whole = _save_tiny(directory, config, kind)
            probe = _probe_encoder if subject.kind == "encoder" else _probe_decoder
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


# The small model


def _save_tiny(
    directory: Path, config: PreTrainedConfig, kind: type[PreTrainedModel]
) -> PreTrainedModel:
    """Write a small random model and return it undivided, as the library loads it."""
    tiny = build_tiny_config(config)
    tiny.architectures = [kind.__name__]
    build: Any = kind
    arguments = get_build_arguments(kind)
    with torch.device("meta"):
        count = sum(p.numel() for p in build(tiny, **arguments).parameters())
    if count > MAX_PARAMETERS:
        raise UnsupportedModel(f"no small model of its class: {count} parameters")
    torch.manual_seed(1)
    model = build(tiny, **arguments)
    draw_weights(model)
    model.save_pretrained(directory)
    config_file = directory / CONFIG_FILE
    written = json.loads(config_file.read_text()) | {"dtype": "float32"}
    config_file.write_text(json.dumps(written))
    return load_whole(kind, directory)


def draw_weights(model: PreTrainedModel) -> None:
    """Give a model weights so wide that a wrong mask shows in the first digits."""
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.3 if parameter.ndim > 1 else 1 + noise * 0.1


def load_whole(kind: type[PreTrainedModel], directory: Path) -> PreTrainedModel:
    """Load a model undivided, with weights in aligned memory as the parts have them.

    The library maps weights from the file, where kernels add up in another order.
    """
    load: Any = kind.from_pretrained
    model: PreTrainedModel = load(
        directory, dtype=torch.float32, **get_build_arguments(kind)
    ).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


# Decoders


class _Undivided:
    """The whole model and a cache of the library's own."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        name = get_cache_argument(model.base_model)
        if name is None:
            raise UnsupportedModel("its forward pass takes no cache")
        self._name = name
        self._cache = transformers.DynamicCache(config=model.config)

    @torch.inference_mode()
    def run(self, token_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return the logits (B, T, V) of the next T tokens."""
        kwargs |= {self._name: self._cache, "use_cache": True}
        logits: torch.Tensor = self._model(input_ids=token_ids, **kwargs).logits
        return logits


def _probe_decoder(
    directory: Path, whole: PreTrainedModel, checks: list[Check]
) -> bool:
    """Append what was found; return whether sessions can be rolled back anywhere."""
    has_states = GhostCache(whole.config, range(LAYERS)).has_states
    # Where layers keep states the second chunk is run as steps by both.
    second = [1] * CHUNK if has_states else [CHUNK]
    pieces = _draw_pieces(PREFILL, *second, *[1] * STEPS)
    undivided = _Undivided(whole)
    expected = [undivided.run(piece) for piece in pieces]
    checks.append(_check_agreement(whole, pieces, expected))
    ends = load_ends(directory)
    divisions = [load_stages(directory, cuts, LAYERS) for cuts in CUTS]
    worst = _Worst()
    for stages in divisions:
        pipeline = LocalPipeline(stages, ends)
        _measure_steps(worst, pipeline, pieces, expected, len(second))
        back = _measure_rollback(stages, ends, pieces, expected, len(second))
        worst.add("rollback", back)
    checks.extend(worst.build_checks())
    note = "to the last step or the beginning only" if has_states else ""
    checks[-1] = Check("rollback", checks[-1].difference, note)
    checks.append(_check_gift("padded", lambda: _run_padded(whole, divisions, ends)))
    if has_states:
        checks.append(Check(RAGGED, "", "layers keep states"))
    else:
        run = lambda: probe_ragged(divisions, ends, pieces, expected)  # noqa: E731
        checks.append(_check_gift(RAGGED, run, is_rounded=True))
    return not has_states


def _draw_pieces(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    # Not the first ids: families use them for padding and other marks.
    return [torch.randint(3, VOCAB, (1, n), generator=generator) for n in lengths]


def _check_agreement(
    whole: PreTrainedModel,
    pieces: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
) -> Check:
    """Compare the undivided model in steps with itself in one pass.

    Raises:
        UnsupportedModel: They disagree.
    """
    at_once = _Undivided(whole).run(torch.cat(list(pieces), dim=1))
    in_steps = torch.cat(list(expected), dim=1)
    _validate_numbers(at_once)
    difference = float((at_once - in_steps).abs().max() / at_once.abs().max())
    if not difference <= AGREEMENT:
        raise UnsupportedModel(
            "the library's own cache gives other results than one pass, "
            f"{difference:.2g} of the largest number"
        )
    return Check("one pass", f"{_round_up(difference)}", "undivided, within rounding")


def _validate_numbers(output: torch.Tensor) -> None:
    if not bool(torch.isfinite(output).all()):
        raise UnsupportedModel("the undivided model gives NaN or infinity")


def _measure_steps(
    worst: "_Worst",
    pipeline: LocalPipeline,
    pieces: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    chunks: int,
) -> None:
    worst.add("prefill", _measure(pipeline.run(pieces[0]), expected[0]))
    chunk = pipeline.run(torch.cat(list(pieces[1 : 1 + chunks]), dim=1))
    worst.add("chunk", _measure(chunk, torch.cat(list(expected[1 : 1 + chunks]), 1)))
    for piece, logits in zip(pieces[1 + chunks :], expected[1 + chunks :], strict=True):
        worst.add("decode", _measure(pipeline.run(piece), logits))


def _measure_rollback(
    stages: Sequence[Part],
    ends: Part,
    pieces: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    chunks: int,
) -> float:
    """Run other tokens after the prompt, go back, and run the right ones."""
    pipeline = LocalPipeline(stages, ends)
    pipeline.run(pieces[0])
    right = torch.cat(list(pieces[1 : 1 + chunks]), dim=1)
    pipeline.run(right.flip(1))
    pipeline.roll_back(PREFILL)
    again = _measure(pipeline.run(right), torch.cat(list(expected[1 : 1 + chunks]), 1))
    pipeline.roll_back(0)
    return max(again, _measure(pipeline.run(pieces[0]), expected[0]))


def _run_padded(
    whole: PreTrainedModel, divisions: Sequence[Sequence[Part]], ends: Part
) -> float:
    """Return the largest difference in a batch padded on the left."""
    token_ids = torch.cat(_draw_pieces(PREFILL, PREFILL))
    mask = torch.ones_like(token_ids)
    mask[1, : PREFILL - SHORT] = 0
    steps = torch.cat(_draw_pieces(1, 1))
    longer = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
    where = [_place(mask, PREFILL), _place(longer, 1)]
    undivided = _Undivided(whole)
    first = undivided.run(token_ids, **where[0])
    second = undivided.run(steps, **where[1])
    real = mask.bool()
    differences = []
    for stages in divisions:
        pipeline = LocalPipeline(stages, ends)
        begun = pipeline.run(token_ids, **where[0])
        differences.append(_measure(begun[real], first[real]))
        differences.append(_measure(pipeline.run(steps, **where[1]), second))
    return max(differences)


def _place(mask: torch.Tensor, tokens: int) -> dict[str, torch.Tensor]:
    """Return the mask, and the positions of the last `tokens` columns, as `generate`
    counts them."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens:]
    return {"attention_mask": mask, "position_ids": positions}


# Encoders


def _probe_encoder(
    directory: Path, whole: PreTrainedModel, checks: list[Check]
) -> bool:
    """Append what was found; an encoder has nothing to roll back."""
    token_ids = torch.cat(_draw_pieces(PREFILL, PREFILL))
    mask = torch.ones_like(token_ids)
    mask[1, SHORT:] = 0
    expected = [_encode(whole, row[None]) for row in token_ids]
    _validate_numbers(expected[0])
    ends = load_ends(directory)
    divisions = [load_stages(directory, cuts, LAYERS) for cuts in CUTS]
    worst = _Worst()
    for stages in divisions:
        pipeline = EncoderPipeline(stages, ends)
        for row, states in zip(token_ids, expected, strict=True):
            worst.add("whole", _measure(pipeline.run(row[None]), states))
    checks.extend(worst.build_checks())

    def run_padded() -> float:
        real = mask.bool()
        padded = _encode(whole, token_ids, attention_mask=mask)[real]
        pipelines = (EncoderPipeline(stages, ends) for stages in divisions)
        return max(
            _measure(p.run(token_ids, attention_mask=mask)[real], padded)
            for p in pipelines
        )

    checks.append(_check_gift("padded", run_padded))
    return False


@torch.inference_mode()
def _encode(
    whole: PreTrainedModel, token_ids: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    model: Any = whole
    states: torch.Tensor = model(input_ids=token_ids, **kwargs).last_hidden_state
    return states


# Differences


class _Worst:
    """The largest difference of every check, over all divisions."""

    def __init__(self) -> None:
        self._differences: dict[str, float] = {}

    def add(self, name: str, difference: float) -> None:
        self._differences[name] = max(difference, self._differences.get(name, 0.0))

    def build_checks(self) -> list[Check]:
        return [Check(n, f"{d:.2g}", "") for n, d in self._differences.items()]


def _measure(output: torch.Tensor, expected: torch.Tensor) -> float:
    if output.shape != expected.shape:
        raise UnsupportedModel(
            f"shape {tuple(output.shape)} where undivided it is {tuple(expected.shape)}"
        )
    difference = float((output - expected).abs().max())
    # NaN differs from everything, also from NaN.
    return difference if difference == difference else float("inf")


def _check_gift(
    name: str, run: Callable[[], float], *, is_rounded: bool = False
) -> Check:
    """Run what a model may do without."""
    try:
        difference = run()
    except Exception as error:
        # Whatever raises here, the model is served without it.
        return Check(name, "", " ".join(str(error).split())[:200])
    if is_rounded:
        return Check(name, _round_up(difference), "within rounding")
    return Check(name, f"{difference:.2g}", "")


def _round_up(difference: float) -> str:
    """Return the power of ten above: roundings differ between machines, not this."""
    bound = 1e-4
    while difference > bound:
        bound *= 10
    return f"{bound:.0e}"


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

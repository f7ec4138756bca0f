"""
The table of certified architectures: which the sweep covers, and how it reads.

Every decoder class that the library knows by itself, without a picture or a sound
beside it, and the encoders that we take for such.
"""

from collections.abc import Iterable

from inference.certification.certificate import Certificate
from inference.weights.model_info import ENCODER_TYPES

QUICK_TYPES = ("llama", "gemma2", "gpt2", "qwen3_next", "modernbert", "albert")
"""A handful of each kind, for a test in seconds: windows, learned positions, states,
an encoder, and one that is refused."""


def list_model_types() -> list[str]:
    """Return the model types of the sweep; imports the library."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *ENCODER_TYPES})


def build_markdown(certificates: Iterable[Certificate]) -> str:
    """Return the tables of docs/architectures.md."""
    # Some types are other names of one.
    by_type = {each.model_type: each for each in certificates}
    ordered = sorted(by_type.values(), key=lambda c: (c.kind, c.model_type))
    served = [c for c in ordered if c.is_exact]
    refused = [c for c in ordered if not c.is_exact]
    lines = [
        "| model type | class | kind | engines | rollback | padded batch |",
        "|---|---|---|---|---|---|",
        *map(build_row, served),
        "",
        "Refused:",
        "",
        "| model type | reason |",
        "|---|---|",
        *(f"| {c.model_type} | {_escape(c.refusal)} |" for c in refused),
    ]
    return "\n".join(lines) + "\n"


def build_row(certificate: Certificate) -> str:
    """Return the row of a model type that is served."""
    cells = (
        certificate.model_type,
        certificate.architecture,
        certificate.kind,
        " ".join(certificate.engines),
        _describe_rollback(certificate),
        "yes" if certificate.batches else "no",
    )
    return f"| {' | '.join(cells)} |"


def describe(certificate: Certificate) -> str:
    """Return a certificate as text for people."""
    lines = [
        f"certificate  {certificate.compute_hash().hex()}",
        f"model        {certificate.model_type}, {certificate.architecture}, "
        f"{certificate.kind}",
        f"libraries    {', '.join(certificate.libraries)}",
        f"probed       {certificate.layers} layers, cut at "
        + " and at ".join(",".join(map(str, cut)) for cut in certificate.cuts),
    ]
    for check in certificate.checks:
        result = check.difference or "not run"
        if check.is_exact:
            result = "exact"
        note = f"  ({check.note})" if check.note else ""
        lines.append(f"  {check.name:10} {result}{note}")
    if certificate.is_exact:
        lines.append(f"engines      {', '.join(certificate.engines)}")
    else:
        lines.append(f"refused      {certificate.refusal}")
    return "\n".join(lines)


def build_document(certificate: Certificate) -> dict[str, object]:
    """Return a certificate as JSON for programs."""
    return {
        "certificate": "0x" + certificate.compute_hash().hex(),
        "version": certificate.version,
        "config_hash": "0x" + certificate.config_hash.hex(),
        "model_type": certificate.model_type,
        "architecture": certificate.architecture,
        "kind": certificate.kind,
        "libraries": list(certificate.libraries),
        "layers": certificate.layers,
        "cuts": [list(cut) for cut in certificate.cuts],
        "checks": [
            {"name": c.name, "difference": c.difference or None, "note": c.note}
            for c in certificate.checks
        ],
        "engines": list(certificate.engines),
        "rolls_back": certificate.rolls_back,
        "batches": certificate.batches,
        "exact": certificate.is_exact,
        "refusal": certificate.refusal or None,
    }


def _describe_rollback(certificate: Certificate) -> str:
    if certificate.kind == "encoder":
        return "-"
    return "anywhere" if certificate.rolls_back else "last step"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")

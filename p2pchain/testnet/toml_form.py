"""Manifests as TOML: what `parse_manifest` reads back as the same manifest."""

import json
from typing import Any

import msgspec

from p2pchain.testnet.manifest import Manifest

TABLES = ("load", "params")
LISTS = ("node", "step")


def dump_manifest(manifest: Manifest) -> str:
    """Return the text of a manifest, without what has its default."""
    values = _strip(manifest)
    lines = [_pair(key, v) for key, v in values.items() if key not in TABLES + LISTS]
    for name in TABLES:
        if values.get(name):
            lines += ["", f"[{name}]"]
            lines += [_pair(key, value) for key, value in values[name].items()]
    for name in LISTS:
        for entry in values.get(name, ()):
            lines += ["", f"[[{name}]]"]
            lines += [_pair(key, value) for key, value in entry.items()]
    return "\n".join(lines) + "\n"


def _strip(value: Any) -> Any:
    """Return a struct as a dictionary without defaults, with `kind` first."""
    if not isinstance(value, msgspec.Struct):
        return [_strip(item) for item in value] if isinstance(value, tuple) else value
    config = value.__struct_config__
    entry = {config.tag_field: config.tag} if config.tag_field else {}
    for field in msgspec.structs.fields(value):
        own = getattr(value, field.name)
        if field.required or own != field.default:
            entry[field.encode_name] = _strip(own)
    return entry


def _pair(key: str, value: Any) -> str:
    # JSON's strings, numbers, booleans and lists of them are TOML's too.
    return f"{key} = {json.dumps(value)}"

"""
What the split probe found out about a model, as one record that can be kept and shown.

A certificate is about a configuration and the versions of the libraries that ran it,
not about weights: the same architecture with the same settings is computed by the same
code.  It says which engines may serve the model, or why none may.

No torch here: nodes read certificates, a process of its own makes them (probe.py).
"""

from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.types import U8, U16, Hash32

VERSION = 1
"""Of the probe: certificates of another version are made anew."""

GHOST, RAGGED, TEXT = "ghost", "ragged", "text"


class Check(Record):
    """One thing that was run, divided and undivided."""

    name: str
    difference: str
    """The largest difference of any number, as a decimal; empty where not run."""
    note: str
    """Why it was not run, or what came out of it; mostly empty."""

    @property
    def is_exact(self) -> bool:
        """Whether it ran and gave the same bytes."""
        return self.difference == "0"


class Certificate(Record):
    """The outcome of one probe."""

    version: U8
    config_hash: Hash32
    """BLAKE3 of the config.json that it is about."""
    architecture: str
    """The class that computes the model, as LlamaForCausalLM."""
    model_type: str
    """As config.json and the library name it."""
    kind: str
    """"decoder" or "encoder"."""
    libraries: tuple[str, ...]
    """What computed it, as "transformers 5.23.0"."""
    layers: U16
    """Of the small model that was probed."""
    cuts: tuple[tuple[U16, ...], ...]
    """Where it was cut, one entry per division."""
    checks: tuple[Check, ...]
    engines: tuple[str, ...]
    """Which may serve it, the preferred one first; empty when refused."""
    rolls_back: bool
    """Whether a session can return to any earlier position."""
    batches: bool
    """Whether sequences of several lengths can share a pass, padded."""
    refusal: str
    """Why no engine may serve it; empty when one may."""

    @property
    def is_exact(self) -> bool:
        """Whether the model may be served."""
        return not self.refusal

    def compute_hash(self) -> bytes:
        """Return the certificate's name, 32 bytes."""
        return compute_hash("certificate", encode(self))

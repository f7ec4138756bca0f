"""Models and profiles: what exactly is served and sold."""

from typing import Annotated

from msgspec import Meta

from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.types import U16, U32, Amount, Hash32

Name = Annotated[str, Meta(min_length=1, max_length=64)]
"""Short text of people's choosing; bounded because it is stored for ever."""


class ModelRecord(Record):
    """A model that the chain knows: enough to check a registration against."""

    model_id: Hash32
    """`compute_model_id` of the two roots below."""
    name: Name
    """What people call it; unique in a genesis."""
    architecture: Name
    """The architecture's family, such as "llama"."""
    layers: U16
    """Transformer layers, at least 1; ranges are cut from [0, layers)."""
    hidden_size: U32
    vocab_size: U32
    dtype: Name
    """Of the reference weights, such as "float32"."""
    weights_root: Hash32
    tokenizer_hash: Hash32
    min_collateral: Amount
    """Atoms that every registration of this model locks at least."""


class Profile(Record):
    """Everything that decides the last bit of a forward pass; its hash is sold."""

    weights_root: Hash32
    tokenizer_hash: Hash32
    weight_dtype: Name
    activation_dtype: Name
    cache_dtype: Name
    quantisation: Name
    kernel: Name
    attention: Name
    codec: Name
    """Of activations on the wire."""
    sampler: Name


def compute_model_id(weights_root: bytes, tokenizer_hash: bytes) -> bytes:
    """Return the 32-byte name of a model: its weights and its tokenizer."""
    return compute_hash("model", weights_root, tokenizer_hash)


def compute_profile_hash(profile: Profile) -> bytes:
    """Return the 32-byte name of a profile."""
    return compute_hash("profile", encode(profile))

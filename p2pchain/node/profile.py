"""What exactly our stages sell: the profile of a model as this version computes it."""

from chain.contracts.model import Profile, compute_profile_hash
from inference.model_info import ModelInfo


def build_profile(info: ModelInfo) -> Profile:
    """Return the profile under which this version serves a model.

    Weights, activations, cache and wire are in the model's own dtype; nothing is
    quantised, and the requester samples.
    """
    return Profile(
        weights_root=info.weights_root,
        tokenizer_hash=info.tokenizer_hash,
        weight_dtype=info.dtype,
        activation_dtype=info.dtype,
        cache_dtype=info.dtype,
        quantisation="none",
        kernel="torch-cpu",
        attention="sdpa",
        codec="raw",
        sampler="requester",
    )


def get_profile_hash(info: ModelInfo) -> bytes:
    """Return the name of that profile."""
    return compute_profile_hash(build_profile(info))

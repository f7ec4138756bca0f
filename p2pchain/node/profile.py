"""What exactly our stages sell: the profile of a model as this version computes it."""

from chain.contracts.model import Profile, compute_profile_hash
from inference.model_info import ModelInfo
from inference.precision import Precision

QUANTISATION = {
    Precision.NATIVE: "none",
    Precision.INT8: "w7-a8-token",
    Precision.INT4: "w4-group32",
}
"""Of the weights of linear layers; everything else is in the model's own dtype."""


def build_profile(info: ModelInfo, precision: Precision = Precision.NATIVE) -> Profile:
    """Return the profile under which this version serves a model.

    Activations, cache and wire are in the model's own dtype, and so are the weights
    unless the precision says otherwise; the requester samples.
    """
    return Profile(
        weights_root=info.weights_root,
        tokenizer_hash=info.tokenizer_hash,
        weight_dtype=info.dtype,
        activation_dtype=info.dtype,
        cache_dtype=info.dtype,
        quantisation=QUANTISATION[precision],
        kernel="torch-cpu",
        attention="sdpa",
        codec="raw",
        sampler="requester",
    )


def get_profile_hash(info: ModelInfo, precision: Precision = Precision.NATIVE) -> bytes:
    """Return the name of that profile."""
    return compute_profile_hash(build_profile(info, precision))

"""What exactly our stages sell: the profile of a model as this version computes it."""

from chain.records.model import ModelRecord, Profile, compute_profile_hash
from inference.device.precision import Precision
from inference.weights.model_info import ModelInfo

QUANTISATION = {
    Precision.NATIVE: "none",
    Precision.INT8: "w7-a8-token",
    Precision.INT4: "w4-group32",
}
"""Of the weights of linear layers."""


def build_profile(
    info: ModelInfo | ModelRecord, precision: Precision = Precision.NATIVE
) -> Profile:
    """Return the profile under which this version serves a model.

    Weights, activations, cache and wire are in one dtype, but for packed weights; the
    requester samples.  The kind of processor is no part of it: what two of them give
    differs by rounding, as it does between two versions of a library.
    """
    dtype = precision.get_dtype(info.dtype)
    return Profile(
        weights_root=info.weights_root,
        tokenizer_hash=info.tokenizer_hash,
        weight_dtype=dtype,
        activation_dtype=dtype,
        cache_dtype=dtype,
        quantisation=QUANTISATION[precision.packing],
        kernel="torch",
        attention="sdpa",
        codec="raw",
        sampler="requester",
    )


def get_profile_hash(
    info: ModelInfo | ModelRecord, precision: Precision = Precision.NATIVE
) -> bytes:
    """Return the name of that profile."""
    return compute_profile_hash(build_profile(info, precision))

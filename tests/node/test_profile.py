"""Layers of another precision are another thing to sell."""

from inference.bundled.paths import model_dir
from inference.device.precision import Precision
from inference.weights.model_info import ModelInfo, load_model_info
from p2pchain.node.home.profile import build_profile, get_profile_hash


def test_every_precision_has_a_profile_of_its_own() -> None:
    info: ModelInfo = load_model_info(model_dir())
    others = [each for each in Precision if each is not Precision.FP32]
    names = {get_profile_hash(info, precision) for precision in others}
    assert len(names) == len(others)
    assert get_profile_hash(info) == get_profile_hash(info, Precision.NATIVE)
    # The numbers count, not the word: the bundled model is in float32 anyway.
    assert get_profile_hash(info) == get_profile_hash(info, Precision.FP32)
    assert build_profile(info).quantisation == "none"
    for precision in Precision:
        profile = build_profile(info, precision)
        assert profile.activation_dtype == precision.get_dtype(info.dtype)
        assert profile.weights_root == info.weights_root

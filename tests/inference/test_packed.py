"""Layers that are given the same tensor become one product, and stay what they were."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_models import HIDDEN, save_model
from torch import nn

from inference.device.precision import PACKINGS, Precision
from inference.engine import packed
from inference.engine.kernels import build_kernel
from inference.engine.packed import PackedLayer, SharedProduct, pack, watch_inputs
from inference.engine.stage import StageEngine
from inference.model.part import Part
from inference.model.split import load_stage


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Counted:
    """A kernel that counts its calls."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.calls = 0
        self._weight = weight

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return nn.functional.linear(given, self._weight)


@pytest.fixture
def weight() -> torch.Tensor:
    return draw(7, 4)


@pytest.fixture
def kernel(weight: torch.Tensor) -> Counted:
    return Counted(weight)


def test_one_product_serves_all_layers_of_a_tensor(
    weight: torch.Tensor, kernel: Counted
) -> None:
    product = SharedProduct(kernel, [2, 4, 1])
    for seed in range(3):
        given = draw(1, 3, 4, seed=seed)
        expected = nn.functional.linear(given, weight).split([2, 4, 1], dim=-1)
        for index in (1, 0, 2):
            assert torch.equal(product.take(given, index), expected[index])
    assert kernel.calls == 3


def test_another_tensor_with_the_same_numbers_is_another_one(kernel: Counted) -> None:
    product = SharedProduct(kernel, [3, 4])
    given = draw(1, 1, 4)
    first = product.take(given, 0)
    assert torch.equal(product.take(given.clone(), 0), first)
    assert kernel.calls == 2


def test_a_layer_that_is_called_twice_gets_a_product_of_its_own(
    kernel: Counted,
) -> None:
    product = SharedProduct(kernel, [3, 4])
    given = draw(1, 1, 4)
    first = product.take(given, 0)
    first.zero_()
    assert product.take(given, 0).abs().sum() > 0
    assert kernel.calls == 2


def test_a_tensor_that_was_filled_anew_is_multiplied_anew(kernel: Counted) -> None:
    product = SharedProduct(kernel, [3, 4])
    given = draw(1, 1, 4)
    before = product.take(given, 0)
    product.take(given, 1)
    given.mul_(2)
    assert torch.equal(product.take(given, 0), before * 2)


def load(directory: Path) -> Part:
    return load_stage(directory, range(1, 3))


def test_what_shares_an_input_is_seen_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "SMALLEST_ELEMENTS", 0)
    # Attention and feed-forward of one norm's output; and a model of plain layers.
    for family, sizes in (("cohere", {5: 10, 1: 4}), ("gpt2", {1: 8})):
        engine = StageEngine.load(save_model(tmp_path / family, family), range(1, 3))
        modules = engine.part.model.modules()
        layers = [m for m in modules if isinstance(m, PackedLayer)]
        assert Counter(len(m._product._outputs) for m in layers) == sizes


def test_layers_that_no_run_has_seen_stay_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "SMALLEST_ELEMENTS", 0)
    part = load(save_model(tmp_path, "llama"))
    with watch_inputs(part) as watch:
        pass
    assert watch.groups == []
    assert pack(part, Precision.NATIVE, watch.groups) == 2 * 7


@pytest.mark.parametrize("precision", PACKINGS)
def test_joined_weights_give_the_same_bytes(precision: Precision) -> None:
    weights = [draw(outputs, 64, seed=outputs) for outputs in (32, 16, 48)]
    biases = [draw(len(weight)) for weight in weights]
    given = draw(1, 5, 64)
    joined = build_kernel(torch.cat(weights), torch.cat(biases), precision)(given)
    alone = [
        build_kernel(weight, bias, precision)(given)
        for weight, bias in zip(weights, biases, strict=True)
    ]
    if precision is Precision.NATIVE:
        torch.testing.assert_close(joined, torch.cat(alone, dim=-1))
    else:
        assert torch.equal(joined, torch.cat(alone, dim=-1))


def test_layers_with_and_without_bias_share_a_product() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(HIDDEN, 16)
            self.second = nn.Linear(HIDDEN, 8, bias=False)

    pair = Pair()
    given = draw(1, 2, HIDDEN)
    with torch.inference_mode():
        expected = pair.first(given), pair.second(given)
        layers = packed._pack_group([pair.first, pair.second], Precision.NATIVE)
        for layer, output in zip(layers, expected, strict=True):
            torch.testing.assert_close(layer(given), output)
    assert layers[1].bias is None


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_rows_of_zeros_give_zeros(precision: Precision) -> None:
    kernel = build_kernel(draw(32, 64), None, precision)
    assert not kernel(torch.zeros(1, 3, 64)).any()


def test_the_largest_input_of_either_sign_fits_its_level() -> None:
    kernel = build_kernel(torch.eye(64), None, Precision.INT8)
    for scale in (1e-30, 0.3, 1e30):
        given = draw(8, 64).clamp(-1, 1) * scale
        given[:, 0], given[:, 1] = scale, -scale
        torch.testing.assert_close(kernel(given), given, atol=scale / 250, rtol=0)

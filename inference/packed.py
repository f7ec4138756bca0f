"""
Linear layers in the form that this machine multiplies fastest.

The library's linear layers hand a plain matrix to the kernel in every step, which then
is not the best one: a matrix that oneDNN has laid out for its own kernels once, when it
is loaded, is multiplied two to five times faster by several rows and no slower by one
(docs/log.md).  So every linear layer of a part is replaced by a packed one; nothing is
listed by architecture.  The plain weights are dropped one by one on the way, and the
part must afterwards give what it gave before, within the tolerance of its precision.

What is no linear layer (norms, experts in one tensor, attention itself) stays as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from inference.errors import UnsupportedModel
from inference.precision import Precision
from inference.split import Part

NATIVE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far the same numbers may be off when they are added up in another order, of the
largest one.  Rounding gives a hundredth of it; a mistake a hundred times as much."""

QUANTISED_TOLERANCE = {Precision.INT8: 0.3, Precision.INT4: 1.0}
"""A few per cent of each product for int8, eight for int4, and of thousands of numbers
the one that is off most counts."""

SMALLEST_ELEMENTS = 2**16
"""Of a matrix that is laid out anew: below it the call costs more than it saves."""
_USUAL_ROWS = 64
"""What the layout is chosen for: a step's budget; one row is as fast in it."""
_INT8_LIMIT = 127
_INT7_LIMIT = 63
_INT8_ZERO = 128
"""The kernel takes unsigned inputs; this one stands for zero."""
_GROUP = 32
"""Inputs that share a scale in int4."""
_INT4_LEVELS = 15
_TINY = torch.finfo(torch.float32).tiny
"""Instead of a scale of zero, where everything that it scales is zero."""


class PackedLayer(nn.Module):
    """A linear layer whose weights are in the form of some kernel."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Remember sizes and bias; `weight` (outputs, inputs) itself is not kept."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Models ask for dtype and device of a weight, and nothing else of it; one that
        # computes with it fails the comparison after packing.
        self.weight = weight.new_zeros(1, 1).expand(weight.shape)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)


class NativeLayer(PackedLayer):
    """The weights as they are, laid out for oneDNN."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of (..., inputs)."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            given, self._packed, self.bias, "none", [], ""
        )
        return output


class Int8Layer(PackedLayer):
    """Weights of 7 bits, inputs of 8."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        exact = weight.float()
        largest = exact.abs().amax(dim=1)
        self._scales = (largest / _INT7_LIMIT).clamp(min=_TINY)
        levels = (exact / self._scales[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self._zeros = torch.zeros(self.out_features, dtype=torch.int64)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of (..., inputs)."""
        rows = given.reshape(-1, self.in_features).float()
        scales = rows.abs().amax(dim=1, keepdim=True).mul_(1 / _INT8_LIMIT)
        scales.clamp_(min=_TINY)
        levels = (rows / scales).round_().add_(_INT8_ZERO).to(torch.uint8)
        sums = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, _INT8_ZERO, self._packed, self._scales, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        output = sums.mul_(scales)
        if self.bias is not None:
            output.add_(self.bias)
        return output.to(given.dtype).view(*given.shape[:-1], self.out_features)


class Int4Layer(PackedLayer):
    """Weights of 4 bits, inputs in bfloat16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        groups = weight.float().view(self.out_features, -1, _GROUP)
        low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
        scales = ((high - low) / _INT4_LEVELS).clamp(min=_TINY)
        levels = ((groups - low) / scales).round_().to(torch.int32)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            levels.view(self.out_features, self.in_features), 1
        )
        # The kernel takes the value of level 8 as a group's zero.
        zeros = low + scales * 8
        both = torch.cat([scales, zeros], dim=2).transpose(0, 1)
        self._scales_and_zeros = both.contiguous().to(torch.bfloat16)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of (..., inputs)."""
        rows = given.reshape(-1, self.in_features).to(torch.bfloat16)
        output = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self._packed, _GROUP, self._scales_and_zeros
        ).to(given.dtype)
        if self.bias is not None:
            output.add_(self.bias)
        return output.view(*given.shape[:-1], self.out_features)


def can_pack(part: Part, precision: Precision) -> bool:
    """Whether this machine has the kernels for a part's dtype and a precision."""
    if next(part.model.parameters()).device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    ops: Any = torch.ops.mkldnn
    if precision is not Precision.NATIVE:
        return part.dtype in (torch.float32, torch.bfloat16)
    match part.dtype:
        case torch.float32:
            return True
        case torch.bfloat16:
            return bool(ops._is_mkldnn_bf16_supported())
        case torch.float16:
            return bool(ops._is_mkldnn_fp16_supported())
    return False


def pack(part: Part, precision: Precision) -> int:
    """Replace every linear layer of a part but, natively, small ones; return how many.

    The plain weights are gone afterwards.

    Raises:
        UnsupportedModel: There is nothing to quantise, or no kernel for it here.
    """
    if not can_pack(part, precision):
        if precision is Precision.NATIVE:
            return 0
        raise UnsupportedModel(f"no kernels here for {precision} of {part.dtype}")
    count = 0
    for module in list(part.model.modules()):
        for name, child in list(module.named_children()):
            weight = _get_weight(child)
            if weight is None:
                continue
            if precision is not Precision.NATIVE or weight.numel() >= SMALLEST_ELEMENTS:
                bias = None if child.bias is None else child.bias.detach()
                setattr(module, name, _build_layer(weight, bias, precision))
                count += 1
    if not count and precision is not Precision.NATIVE:
        raise UnsupportedModel("no linear layers to quantise")
    return count


def is_same_when_packed(
    part: Part, precision: Precision, run: Callable[[], torch.Tensor]
) -> bool:
    """Pack a part and tell whether a run of it still gives the same.

    Where it does not, the part cannot be used any more.
    """
    before = run()
    if not pack(part, precision):
        return True
    try:
        after = run()
    except Exception:
        # A model's own code may want of its weights what packed ones do not have.
        return False
    worst = float((after - before).abs().max())
    return worst <= get_tolerance(part.dtype, precision) * float(before.abs().max())


def get_tolerance(dtype: torch.dtype, precision: Precision) -> float:
    """Return how far packed weights may be off, of the largest number."""
    return max(NATIVE_TOLERANCE[dtype], QUANTISED_TOLERANCE.get(precision, 0.0))


def is_packed(part: Part) -> bool:
    """Whether anything of a part was packed."""
    return any(isinstance(module, PackedLayer) for module in part.model.modules())


def _get_weight(module: nn.Module) -> torch.Tensor | None:
    """Return (outputs, inputs) of a plain linear layer, None for another module."""
    # Exact types: what a subclass adds would be lost.
    if type(module) is nn.Linear:
        return module.weight.detach()
    if type(module) is Conv1D:
        return module.weight.detach().t().contiguous()
    return None


def _build_layer(
    weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision
) -> PackedLayer:
    outputs, inputs = weight.shape
    match precision:
        case Precision.INT8:
            return Int8Layer(weight, bias)
        case Precision.INT4 if inputs % _GROUP == 0 and outputs % 16 == 0:
            return Int4Layer(weight, bias)
        case Precision.INT4:
            return Int8Layer(weight, bias)
        case _:
            return NativeLayer(weight, bias)

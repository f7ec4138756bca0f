"""
Products of inputs with weights that were laid out for one kernel of this machine.

A kernel takes weights (outputs, inputs) once and then multiplies (..., inputs) to
(..., outputs), as a linear layer does.  Which one serves a layer is packed.py's matter.
"""

from typing import Protocol

import torch

from inference.device.precision import Precision

_USUAL_ROWS = 64
"""What the layout is chosen for: a step's budget; one row is as fast in it."""
_INT8_LIMIT = 127
_INT7_LIMIT = 63
_INT8_ZERO = 128
"""The kernel takes unsigned inputs; this one stands for zero."""
_INT8_ROUNDED = torch.tensor(_INT8_ZERO + 0.5)
"""Added before what is behind the point is cut off."""
_GROUP = 32
"""Inputs that share a scale in int4."""
_INT4_LEVELS = 15
_INT4_OUTPUTS = 16
"""The kernel takes so many outputs at a time."""
_TINY = torch.finfo(torch.float32).tiny
"""Instead of a scale of zero, where everything that it scales is zero."""


class Kernel(Protocol):
    """Multiplies by weights that it has laid out."""

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of (..., inputs), in the dtype of what is given."""


class NativeKernel:
    """The weights as they are, laid out for oneDNN."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Lay out (outputs, inputs); `weight` itself is not kept."""
        self._bias = bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of (..., inputs)."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            given, self._packed, self._bias, "none", [], ""
        )
        return output


class Int8Kernel:
    """Weights of 7 bits, inputs of 8."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise and lay out (outputs, inputs); `weight` itself is not kept."""
        self._outputs, self._inputs = weight.shape
        self._bias = bias
        exact = weight.float()
        largest = exact.abs().amax(dim=1)
        scales = (largest / _INT7_LIMIT).clamp(min=_TINY)
        levels = (exact / scales[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(levels, None)
        # Of a row's largest input, not of its levels: one step less in every call.
        self._scales = scales / _INT8_LIMIT
        self._zeros = torch.zeros(self._outputs, dtype=torch.int64)

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of (..., inputs)."""
        # Every call of a small operation costs as much as reading 100 kB of weights.
        rows = given.reshape(-1, self._inputs).float()
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_(min=_TINY)
        levels = torch.addcdiv(_INT8_ROUNDED, rows, largest, value=_INT8_LIMIT)
        sums = torch.ops.onednn.qlinear_pointwise(
            levels.to(torch.uint8), 1.0, _INT8_ZERO, self._packed, self._scales,
            self._zeros, None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        output = sums.mul_(largest)
        if self._bias is not None:
            output.add_(self._bias)
        return output.to(given.dtype).view(*given.shape[:-1], self._outputs)


class Int4Kernel:
    """Weights of 4 bits, inputs in bfloat16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise and lay out (outputs, inputs); `weight` itself is not kept."""
        self._outputs, self._inputs = weight.shape
        self._bias = bias
        groups = weight.float().view(self._outputs, -1, _GROUP)
        low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
        scales = ((high - low) / _INT4_LEVELS).clamp(min=_TINY)
        levels = ((groups - low) / scales).round_().to(torch.int32)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            levels.view(self._outputs, self._inputs), 1
        )
        # The kernel takes the value of level 8 as a group's zero.
        zeros = low + scales * 8
        both = torch.cat([scales, zeros], dim=2).transpose(0, 1)
        self._scales_and_zeros = both.contiguous().to(torch.bfloat16)

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of (..., inputs)."""
        rows = given.reshape(-1, self._inputs).to(torch.bfloat16)
        output = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self._packed, _GROUP, self._scales_and_zeros
        ).to(given.dtype)
        if self._bias is not None:
            output.add_(self._bias)
        return output.view(*given.shape[:-1], self._outputs)


def build_kernel(
    weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision
) -> Kernel:
    """Return the kernel of a precision for weights (outputs, inputs)."""
    outputs, inputs = weight.shape
    match precision:
        case Precision.INT8:
            return Int8Kernel(weight, bias)
        case Precision.INT4 if inputs % _GROUP == 0 and outputs % _INT4_OUTPUTS == 0:
            return Int4Kernel(weight, bias)
        case Precision.INT4:
            return Int8Kernel(weight, bias)
        case _:
            return NativeKernel(weight, bias)

"""
Linear layers in the form that this machine multiplies fastest.

The library's linear layers hand a plain matrix to the kernel in every step, which then
is not the best one: a matrix that oneDNN has laid out for its own kernels once, when it
is loaded, is multiplied two to five times faster by several rows and no slower by one
(docs/log.md).  So every linear layer of a part is replaced by a packed one; nothing is
listed by architecture.  The plain weights are dropped on the way, and the part must
afterwards give what it gave before, within the tolerance of its precision.

Layers that are given the same tensor (queries, keys and values; gate and up) become one
product: a call has a fixed cost of ten to thirty microseconds, and the input is
quantised once.  Which they are shows in a run that is watched; the first of them that
is called computes for all, and the others take their columns, if what they are given
is that same tensor:

    q_proj(x) --> x times (q | k | v) --> columns of q
    k_proj(x) ------------------------->  columns of k
    v_proj(x) ------------------------->  columns of v

What is no linear layer (norms, experts in one tensor, attention itself) stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from inference.device.precision import Precision
from inference.engine.kernels import Kernel, build_kernel
from inference.errors import UnsupportedModel
from inference.model.part import Part

NATIVE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far the same numbers may be off when they are added up in another order, of the
largest one.  Rounding gives a hundredth of it; a mistake a hundred times as much."""

QUANTISED_TOLERANCE = {Precision.INT8: 0.3, Precision.INT4: 1.0}
"""A few per cent of each product for int8, eight for int4, and of thousands of numbers
the one that is off most counts."""

SMALLEST_ELEMENTS = 2**17
"""Of a product that is laid out anew.  Up to twice as many the call costs more than it
saves with one row, and up to half as many with eight."""

Groups = Sequence[Sequence[nn.Module]]
"""Linear layers that are given the same tensor, in the order of their calls."""


class PackedLayer(nn.Module):
    """A linear layer that takes its columns of a product."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        product: "SharedProduct",
        index: int,
    ) -> None:
        """Remember sizes and bias; `weight` (outputs, inputs) itself is not kept."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Models ask for dtype and device of a weight, and nothing else of it; one that
        # computes with it fails the comparison after packing.
        self.weight = weight.new_zeros(1, 1).expand(weight.shape)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._product = product
        self._index = index

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of (..., inputs)."""
        return self._product.take(given, self._index)

    # The library's own call looks for hooks first, which takes as long as a small
    # operation; whatever hooks a plain layer had are gone.
    __call__ = forward


class SharedProduct:
    """One product for layers that are given the same tensor."""

    def __init__(self, kernel: Kernel, outputs: Sequence[int]) -> None:
        """Take the kernel of all, and the number of outputs of each."""
        self._kernel = kernel
        self._outputs = list(outputs)
        self._given: torch.Tensor | None = None
        self._columns: dict[int, torch.Tensor] = {}

    def take(self, given: torch.Tensor, index: int) -> torch.Tensor:
        """Return the columns of one layer; each is taken once from a product."""
        if len(self._outputs) == 1:
            return self._kernel(given)
        if given is not self._given or index not in self._columns:
            columns = self._kernel(given).split(self._outputs, dim=-1)
            self._given, self._columns = given, dict(enumerate(columns))
        taken = self._columns.pop(index)
        if not self._columns:
            # The same tensor with other numbers in it may be given later.
            self._given = None
        return taken


@dataclass(slots=True)
class InputWatch:
    """Learns from the first call of every layer which are given the same tensor."""

    _inputs: list[torch.Tensor] = field(default_factory=list)
    """Kept, for a tensor is known by its place in memory."""
    _members: dict[int, list[nn.Module]] = field(default_factory=dict)
    _seen: set[nn.Module] = field(default_factory=set)

    @property
    def groups(self) -> list[list[nn.Module]]:
        """The groups that were seen, layers alone among them."""
        return list(self._members.values())

    def look(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """Forward pre-hook of a linear layer."""
        if module in self._seen or not given:
            return
        self._seen.add(module)
        self._inputs.append(given[0])
        self._members.setdefault(id(given[0]), []).append(module)


@contextmanager
def watch_inputs(part: Part) -> Iterator[InputWatch]:
    """Watch the linear layers of a part inside the block."""
    watch = InputWatch()
    handles = [
        module.register_forward_pre_hook(watch.look)
        for module in part.model.modules()
        if _get_weight(module) is not None
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


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


def pack(part: Part, precision: Precision, groups: Groups = ()) -> int:
    """Replace every linear layer of a part but, natively, small ones; return how many.

    The plain weights are gone afterwards.

    Args:
        part: A loaded part.
        precision: Of the packed weights.
        groups: What a watch has seen; layers in none of them stay alone.

    Raises:
        UnsupportedModel: There is nothing to quantise, or no kernel for it here.
    """
    if not can_pack(part, precision):
        if precision is Precision.NATIVE:
            return 0
        raise UnsupportedModel(f"no kernels here for {precision} of {part.dtype}")
    places = _find_places(part)
    known = {member for group in groups for member in group}
    alone = [[module] for module in places if module not in known]
    count = 0
    for group in (*groups, *alone):
        members = [module for module in group if module in places]
        weights = [_get_weight(module) for module in members]
        elements = sum(weight.numel() for weight in weights if weight is not None)
        if not members:
            continue
        if precision is Precision.NATIVE and elements < SMALLEST_ELEMENTS:
            continue
        layers = _pack_group(members, precision)
        for module, layer in zip(members, layers, strict=True):
            for parent, name in places.pop(module):
                setattr(parent, name, layer)
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
    with watch_inputs(part) as watch:
        before = run()
    if not pack(part, precision, watch.groups):
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


def _find_places(part: Part) -> dict[nn.Module, list[tuple[nn.Module, str]]]:
    """Return the linear layers, and under which names of which modules each stands."""
    places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for parent in part.model.modules():
        for name, child in parent.named_children():
            if _get_weight(child) is not None:
                places.setdefault(child, []).append((parent, name))
    return places


def _get_weight(module: nn.Module) -> torch.Tensor | None:
    """Return (outputs, inputs) of a plain linear layer, None for another module."""
    # Exact types: what a subclass adds would be lost.
    if type(module) is nn.Linear:
        return module.weight.detach()
    if type(module) is Conv1D:
        return module.weight.detach().t()
    return None


def _pack_group(
    members: Sequence[nn.Module], precision: Precision
) -> list[PackedLayer]:
    """Return packed layers instead of plain ones that are given the same tensor."""
    weights = [weight for m in members if (weight := _get_weight(m)) is not None]
    biases = [None if m.bias is None else m.bias.detach() for m in members]
    every = weights[0].contiguous() if len(weights) == 1 else torch.cat(weights)
    kernel = build_kernel(every, _join_biases(weights, biases), precision)
    product = SharedProduct(kernel, [len(weight) for weight in weights])
    return [
        PackedLayer(weight, bias, product, index)
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True))
    ]


def _join_biases(
    weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> torch.Tensor | None:
    """Return one bias of all outputs, zero for layers without; None without any."""
    if all(bias is None for bias in biases):
        return None
    return torch.cat(
        [
            weight.new_zeros(len(weight)) if bias is None else bias
            for weight, bias in zip(weights, biases, strict=True)
        ]
    )

"""How far divided and undivided are apart, and what of it counts."""

from collections.abc import Callable

import torch

from inference.certification.certificate import Check
from inference.errors import UnsupportedModel


class Worst:
    """The largest difference of every check, over all divisions."""

    def __init__(self) -> None:
        self._differences: dict[str, float] = {}

    def add(self, name: str, difference: float) -> None:
        """Note what a check found in one division."""
        self._differences[name] = max(difference, self._differences.get(name, 0.0))

    def build_checks(self) -> list[Check]:
        """Return the checks in the order in which they were first made."""
        return [Check(n, f"{d:.2g}", "") for n, d in self._differences.items()]


def measure(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference of two outputs; infinite where there is a NaN.

    Raises:
        UnsupportedModel: They differ in shape.
    """
    if output.shape != expected.shape:
        raise UnsupportedModel(
            f"shape {tuple(output.shape)} where undivided it is {tuple(expected.shape)}"
        )
    difference = float((output - expected).abs().max())
    # NaN differs from everything, also from NaN.
    return difference if difference == difference else float("inf")


def check_gift(
    name: str, run: Callable[[], float], *, is_rounded: bool = False
) -> Check:
    """Run what a model may do without."""
    try:
        difference = run()
    except Exception as error:
        # Whatever raises here, the model is served without it.
        return Check(name, "", " ".join(str(error).split())[:200])
    if is_rounded:
        return Check(name, round_up(difference), "within rounding")
    return Check(name, f"{difference:.2g}", "")


def round_up(difference: float) -> str:
    """Return the power of ten above: roundings differ between machines, not this."""
    bound = 1e-4
    while difference > bound:
        bound *= 10
    return f"{bound:.0e}"


def validate_numbers(output: torch.Tensor) -> None:
    """Refuse an undivided model that computes no numbers."""
    if not bool(torch.isfinite(output).all()):
        raise UnsupportedModel("the undivided model gives NaN or infinity")

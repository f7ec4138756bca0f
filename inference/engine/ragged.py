"""
RAGGED, the fast engine: tokens of many sessions in one pass over a paged store.

Which models it takes is found out on the real layers when they are loaded, and nothing
is listed by name: a probe (ragged_attention.py) must meet one attention call with a
known mask in every layer, and then prompts, chunks, steps and a rollback of two
sessions, mixed in one pass, must give what the general engine gives for each alone.

Its results differ from those by the rounding of another order of summation, which
depends on what shares the pass (docs/adr/0030-two-engines.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from inference.device.memory import PAGE_TOKENS, CacheCost
from inference.device.precision import Precision
from inference.engine.executor import TEST_PAGES, build_test_work
from inference.engine.ghost_executor import GhostExecutor
from inference.engine.packed import NATIVE_TOLERANCE, get_tolerance, pack, watch_inputs
from inference.engine.paged_store import PagedStore
from inference.engine.pages import PageRun
from inference.engine.ragged_attention import (
    PROBE,
    RAGGED,
    ProbePass,
    RaggedPass,
    run_in,
)
from inference.engine.scheduler import Work
from inference.errors import BadAnswer, UnsupportedModel
from inference.model.part import Part

_FITTING_CACHES = (DynamicLayer, DynamicSlidingWindowLayer)
_UNFIT_ROPE = frozenset({"dynamic", "longrope"})
"""Rotary embeddings that follow the longest sequence of a pass."""

TOLERANCE = NATIVE_TOLERANCE
"""How far the engines may differ in the self-test."""

TEST_TOKENS = 21
"""More than one page, so that the page's edge is crossed."""


class RaggedExecutor:
    """The layers of a part over a paged store."""

    name = "ragged"
    splits = True
    shares = True

    def __init__(self, part: Part) -> None:
        """Probe the part.

        Raises:
            UnsupportedModel: It is for the general engine; says why.
        """
        self.part = part
        self._device = next(part.model.parameters()).device
        _validate_caches(part)
        _validate_rope(part)
        self._shapes = _probe(part, self._device)
        item_bytes = torch.finfo(part.dtype).bits // 8
        self.cost = CacheCost(
            sum(
                shape.heads * (shape.key_width + shape.value_width) * item_bytes
                for shape in self._shapes.values()
            )
        )
        self._stores: dict[int, PagedStore] = {}

    def allocate(self, pages: int) -> None:
        """Make a store of `pages` pages."""
        self._stores.clear()
        for layer, shape in self._shapes.items():
            self._stores[layer] = PagedStore(
                shape, pages, self.part.dtype, self._device
            )

    def run(self, works: list[Work], hidden: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run all works in one pass."""
        with torch.inference_mode():
            current = RaggedPass(self._stores, works, self._device)
            flat = hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=1)
            with _use_attention(self.part, RAGGED), run_in(current):
                output = self.part.run_layers(
                    flat, position_ids=current.position_ids, use_cache=False
                )
            if len(works) == 1:
                return [output]
            return list(output.split([work.tokens for work in works], dim=1))

    def forget(self, session_id: bytes) -> None:
        """Nothing to do: pages belong to whom the scheduler gives them."""

    def copy_page(self, source: int, target: int) -> None:
        """Write what one page holds to another one, in every layer."""
        for store in self._stores.values():
            store.copy_page(source, target)

    def read_page(self, page: int) -> bytes:
        """Return what a page holds, layer by layer in their order."""
        return b"".join(
            part for layer in self._stores for part in self._stores[layer].dump(page)
        )

    def write_page(self, page: int, content: memoryview) -> None:
        """Write what `read_page` of an equal engine gave.

        Raises:
            BadAnswer: Another length, or NaN or infinity.
        """
        expected = PAGE_TOKENS * self.cost.position_bytes
        if len(content) != expected:
            raise BadAnswer(f"a page of {len(content)} bytes; here are {expected}")
        for store in self._stores.values():
            store.load(page, content[: store.page_bytes])
            content = content[store.page_bytes :]


def build_ragged(
    part: Part, hidden: torch.Tensor, precision: Precision | None = None
) -> RaggedExecutor:
    """Return a ragged executor that does what the general one does.

    Args:
        part: A loaded part.
        hidden: (1, `TEST_TOKENS`, H), any hidden states.
        precision: In which its weights are packed; None leaves them as they are.

    Raises:
        UnsupportedModel: It does not, says why; unless weights were left as they are,
            the part cannot be used any more.
    """
    executor = _build(part)
    executor.allocate(TEST_PAGES)
    alone = _run_alone(part, hidden)
    with watch_inputs(part) as watch:
        _compare(_run_mixed(executor, hidden), alone, TOLERANCE[part.dtype])
    if precision is not None and pack(part, precision, watch.groups):
        tolerance = get_tolerance(part.dtype, precision)
        _compare(_run_mixed(executor, hidden), alone, tolerance)
    return executor


def _build(part: Part) -> RaggedExecutor:
    try:
        return RaggedExecutor(part)
    except UnsupportedModel:
        raise
    except Exception as error:
        # Whatever the model's own code raises, it is not for this engine.
        raise UnsupportedModel(f"the ragged engine fails: {error}") from error


def _compare(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    scale = float(expected.abs().max())
    worst = float((found - expected).abs().max())
    if not worst <= tolerance * scale:
        raise UnsupportedModel(f"the engines differ by {worst:.2g} of {scale:.2g}")


def _run_alone(part: Part, hidden: torch.Tensor) -> torch.Tensor:
    """Return outputs of a sequence, and of its first half reversed, each alone.

    Raises:
        UnsupportedModel: The model's own code fails in it.
    """
    executor = GhostExecutor(part)
    half = hidden[:, : TEST_TOKENS // 2].flip(1)
    outputs = []
    for name, states in ((b"a", hidden), (b"b", half)):
        work = build_test_work(name, 0, states.shape[1], ())
        try:
            outputs += executor.run([work], [states])
        except Exception as error:
            raise UnsupportedModel(f"the general engine fails: {error}") from error
    return torch.cat(outputs, dim=1)


def _run_mixed(executor: RaggedExecutor, hidden: torch.Tensor) -> torch.Tensor:
    """Return the same, from chunks and steps of both in shared passes.

    Raises:
        UnsupportedModel: The model's own code fails in it.
    """
    half = hidden[:, : TEST_TOKENS // 2].flip(1)
    states = {b"a": hidden, b"b": half}
    # Pages out of order, and a run for each.
    pages = {b"a": (PageRun(3, 1), PageRun(0, 1)), b"b": (PageRun(1, 1),)}
    end_a, end_b = hidden.shape[1], half.shape[1]
    steps = [
        [(b"a", 0, 9)],
        [(b"b", 0, end_b - 2), (b"a", 9, 12)],
        [(b"a", 9, end_a - 2), (b"b", end_b - 2, end_b - 1)],
        [(b"b", end_b - 1, end_b), (b"a", end_a - 2, end_a - 1)],
        [(b"a", end_a - 1, end_a)],
    ]
    outputs = {name: torch.empty_like(value) for name, value in states.items()}
    for step in steps:
        works = [build_test_work(n, low, high - low, pages[n]) for n, low, high in step]
        given = [states[n][:, low:high] for n, low, high in step]
        try:
            results = executor.run(works, given)
        except Exception as error:
            raise UnsupportedModel(f"the ragged engine fails: {error}") from error
        for (name, low, high), result in zip(step, results, strict=True):
            outputs[name][:, low:high] = result
    return torch.cat([outputs[b"a"], outputs[b"b"]], dim=1)


def _probe(part: Part, device: torch.device) -> dict[int, Any]:
    """Return what each layer of the part keeps of a position."""
    hidden = torch.zeros(1, 3, part.config.hidden_size, dtype=part.dtype, device=device)
    probe = ProbePass()
    with (
        torch.inference_mode(),
        _use_attention(part, PROBE),
        run_in(probe),
    ):
        part.run_layers(
            hidden, position_ids=torch.arange(3, device=device)[None], use_cache=False
        )
    if set(probe.shapes) != set(part.layers):
        raise UnsupportedModel("not every layer calls the attention interface once")
    return probe.shapes


@contextmanager
def _use_attention(part: Part, name: str) -> Iterator[None]:
    """Set the part's attention inside the block; the general engine needs its own."""
    config = part.config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def _validate_caches(part: Part) -> None:
    """Refuse layers that keep anything but keys and values."""
    layers = DynamicCache(config=part.config).layers
    for index in part.layers:
        kind = type(layers[index]) if index < len(layers) else DynamicLayer
        if kind not in _FITTING_CACHES:
            raise UnsupportedModel(f"a {kind.__name__} is no list of keys and values")


def _validate_rope(part: Part) -> None:
    rope = getattr(part.config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    for kind in kinds:
        if kind.get("rope_type") in _UNFIT_ROPE:
            raise UnsupportedModel(
                f"{kind['rope_type']} positions follow the longest sequence of a pass"
            )

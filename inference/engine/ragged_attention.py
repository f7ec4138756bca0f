"""
Attention over tokens of many sessions in one flat pass, (1, T, H).

Theory of operation
-------------------
The library lets an attention function be registered by name, and a model that is set
to that name calls it in every layer with its queries, keys and values, (1, heads, T,
width), rotated and normalised as the model wants.  Ours writes keys and values to the
pages of their sessions and lets every session's queries attend to its own pages:

    flat tokens   a a a a b c c        a: a chunk of a prompt, b, c: decode steps
    keys, values  --> pages of a, b, c
    queries       a x pages of a | b x pages of b | c x pages of c

A session that shares its first pages has them apart from its own.  A decode step
attends to each place alone and weighs the results; longer chunks copy.

The library makes no mask for a function that it does not know, so whatever a model
says by its mask alone would be lost in silence.  So the masks are looked at when a
stage is loaded: under a second name a mask function is registered that does not make
a tensor but tests the model's rule at many pairs of positions, and gives back a
`Window` if the rule is causal attention over the last `window` positions (or all).
The model carries that object to every layer as it would carry its mask.  A layer that
gets none, a rule of another kind, and an argument that we do not know make the stage
unfit for this engine; the other one serves it.

Nothing here is written for one architecture.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from inference.engine.paged_store import LayerShape, PagedStore, Ranges
from inference.engine.pages import find_slots
from inference.engine.scheduler import Work
from inference.errors import UnsupportedModel

RAGGED = "p2pchain_ragged"
PROBE = "p2pchain_ragged_probe"

_HARMLESS = frozenset(
    {
        "cache_position",
        "dropout",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "sliding_window",
        "use_cache",
        "training",
    }
)
"""Arguments that change nothing here: what they say stands in positions and masks."""
MAX_PLACES = 4
"""In which a session's keys may lie before they are copied to be side by side: each
costs some calls per layer, whatever is in it."""
_attend_and_weigh = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""What the library calls for plain attention on a CPU, with the logarithm of the sum
of the weights, which the public function keeps to itself."""
_SEEN_LENGTH = 4096
"""Positions up to which a mask's rule is tested, further than most windows."""


@dataclass(frozen=True, slots=True)
class Window:
    """Instead of a mask: causal attention over so many positions, or all."""

    size: int | None


class Pass(Protocol):
    """What takes the attention calls of a forward pass."""

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Return (1, T, heads, width)."""


_current: Pass | None = None


@contextmanager
def run_in(current: Pass) -> Iterator[None]:
    """Send the attention calls inside the block to `current`."""
    global _current
    assert _current is None
    _current = current
    try:
        yield
    finally:
        _current = None


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as the library calls it."""
    assert _current is not None
    return _current.attend(module, query, key, value, attention_mask, options), None


def _classify_mask(**options: Any) -> Window:
    """Stand in for the library's making of a mask."""
    return Window(find_window(options["mask_function"]))


AttentionInterface.register(RAGGED, _attend)
AttentionInterface.register(PROBE, _attend)
AttentionMaskInterface.register(PROBE, _classify_mask)


def find_window(rule: Callable[..., Any]) -> int | None:
    """Return the window of a mask's rule, None for full causal attention.

    Args:
        rule: Of (batch, head, query position, key position); true where a query sees
            a key.

    Raises:
        UnsupportedModel: It is of another kind.
    """
    keys = torch.arange(_SEEN_LENGTH)[None, :]
    # Neighbours, and rows far from each other: chunks and blocks show.
    rows = torch.tensor([0, 1, 2, 3, 5, 17, 255, 256, 700, 1023, 1024, 1531, 2048,
                         3000, 3001, 3002, _SEEN_LENGTH - 1])[:, None]  # fmt: skip
    zero = torch.zeros((), dtype=torch.long)
    seen = torch.as_tensor(rule(zero, zero, rows, keys)).expand(len(rows), -1)
    size = int(seen[-1].sum())
    window = None if size == _SEEN_LENGTH else size
    expected = keys <= rows
    if window is not None:
        expected = expected & (keys > rows - window)
    if not torch.equal(seen, expected):
        raise UnsupportedModel("a mask that is no window of the past")
    return window


def get_softcap_and_sinks(
    options: dict[str, Any],
) -> tuple[float | None, torch.Tensor | None]:
    """Return what else than scale and window an attention call asks for.

    Raises:
        UnsupportedModel: Something that we do not know.
    """
    softcap = sinks = None
    for name, value in options.items():
        if name == "softcap":
            softcap = value
        elif name == "s_aux":
            sinks = value
        elif name != "scaling" and name not in _HARMLESS and value is not None:
            raise UnsupportedModel(f"attention with {name}")
    return softcap, sinks


@dataclass(slots=True)
class ProbePass:
    """A pass over one short sequence that learns what each layer keeps and sees."""

    shapes: dict[int, LayerShape] = field(default_factory=dict)

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Note the layer's shape; returns zeros."""
        layer = getattr(module, "layer_idx", None)
        if type(layer) is not int or layer in self.shapes:
            raise UnsupportedModel("attention that does not say its layer once")
        if not isinstance(mask, Window):
            raise UnsupportedModel("a mask of its own")
        get_softcap_and_sinks(options)
        if key.shape[:1] != (1,) or key.shape[2] != query.shape[2]:
            raise UnsupportedModel("attention to more than the tokens of the pass")
        self.shapes[layer] = LayerShape(
            heads=key.shape[1],
            key_width=key.shape[3],
            value_width=value.shape[3],
            window=mask.size,
        )
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


@dataclass(slots=True)
class _Span:
    """One session's tokens in the flat pass."""

    first: int
    """Row of its first token."""
    last: int
    """Row after its last token."""
    position: int
    end: int
    """Positions in its store after this pass."""
    work: Work
    reads: dict[int | None, Ranges] = field(default_factory=dict)
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    @property
    def is_single(self) -> bool:
        """Whether it is one token, which sees all keys there are."""
        return self.last - self.first == 1

    def is_triangle(self, window: int | None) -> bool:
        """Whether plain causal attention of its tokens to each other is all."""
        is_short = window is None or self.end <= window
        return self.position == 0 and self.end > 1 and is_short


class RaggedPass:
    """A pass over the tokens of several works, in their order."""

    def __init__(
        self, stores: dict[int, PagedStore], works: list[Work], device: torch.device
    ) -> None:
        """Find where everything lies, once for all layers."""
        self._stores = stores
        self._device = device
        self._spans: list[_Span] = []
        self._steps: dict[int | None, Ranges | None] = {}
        """By window."""
        positions: list[int] = []
        slots: list[tuple[int, int]] = []
        row = 0
        for work in works:
            end = work.position + work.tokens
            self._spans.append(_Span(row, row + work.tokens, work.position, end, work))
            positions += range(work.position, end)
            slots += find_slots(work.pages, work.position, end)
            row += work.tokens
        self.position_ids = torch.tensor([positions], device=device)
        """(1, T)"""
        self._writes: slice | torch.Tensor
        if len(slots) == 1:
            self._writes = slice(*slots[0])
        else:
            flat = [slot for first, last in slots for slot in range(first, last)]
            self._writes = torch.tensor(flat, device=device)

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Write keys and values, and attend session by session."""
        assert mask is None
        store = self._stores[module.layer_idx]  # type: ignore[index]
        store.keys[self._writes] = key[0].transpose(0, 1)
        store.values[self._writes] = value[0].transpose(0, 1)
        scale = options.get("scaling")
        softcap, sinks = options.get("softcap"), options.get("s_aux")
        is_plain = (
            softcap is None
            and sinks is None
            and store.shape.key_width == store.shape.value_width
        )
        window = store.shape.window
        if is_plain and (steps := self._find_steps(window)) is not None:
            return _attend_steps(query, store, steps, scale)
        outputs = []
        for span in self._spans:
            ranges = self._get_ranges(span, window)
            part = query[:, :, span.first : span.last]
            if is_plain and span.is_single and self._can_attend_apart(ranges):
                places = [store.read([each]) for each in ranges]
                outputs.append(_attend_apart(part, places, scale))
                continue
            keys, values = store.read(ranges)
            if is_plain and span.is_triangle(window):
                outputs.append(_attend_triangle(part, keys, values, scale))
                continue
            seen = self._get_mask(span, window)
            if is_plain:
                outputs.append(_attend_plain(part, keys, values, seen, scale))
            else:
                outputs.append(
                    _attend_slowly(part, keys, values, seen, scale, softcap, sinks)
                )
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        return joined.transpose(1, 2)

    def _find_steps(self, window: int | None) -> Ranges | None:
        """Return what each session reads, if all are at one token and one place."""
        if window not in self._steps:
            ranges = [self._get_ranges(span, window) for span in self._spans]
            is_each_one = all(len(each) == 1 for each in ranges)
            are_steps = all(span.is_single for span in self._spans)
            places = [each[0] for each in ranges] if is_each_one else []
            self._steps[window] = places if is_each_one and are_steps else None
        return self._steps[window]

    def _can_attend_apart(self, ranges: Ranges) -> bool:
        return 1 < len(ranges) <= MAX_PLACES and self._device.type == "cpu"

    def _get_ranges(self, span: _Span, window: int | None) -> Ranges:
        ranges = span.reads.get(window)
        if ranges is None:
            start = 0 if window is None else max(0, span.position - window + 1)
            ranges = find_slots(span.work.pages, start, span.end)
            span.reads[window] = ranges
        return ranges

    def _get_mask(self, span: _Span, window: int | None) -> torch.Tensor | None:
        """Return (T, keys), true where a token sees a key; None where it sees all."""
        if span.is_single:
            return None
        if window not in span.masks:
            start = 0 if window is None else max(0, span.position - window + 1)
            rows = torch.arange(span.position, span.end, device=self._device)[:, None]
            keys = torch.arange(start, span.end, device=self._device)[None, :]
            seen = keys <= rows
            if window is not None:
                seen &= keys > rows - window
            span.masks[window] = seen
        return span.masks[window]


def _attend_steps(
    query: torch.Tensor, store: PagedStore, places: Ranges, scale: float | None
) -> torch.Tensor:
    """Attend one token of each of T sessions to all that it has kept.

    Args:
        query: (1, Q, T, W), where Q is a multiple of the heads that are kept.
        store: Of the layer.
        places: Where the keys and values of each session lie.
        scale: Of the scores.

    Returns:
        (1, T, Q, W)
    """
    heads, width = store.shape.heads, store.shape.key_width
    # The heads of a group are rows of one query.
    rows = query[0].transpose(0, 1).reshape(len(places), heads, -1, width)
    outputs = []
    for row, place in zip(rows.split(1), places, strict=True):
        keys, values = store.read_range(*place)
        outputs.append(scaled_dot_product_attention(row, keys, values, scale=scale))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined.view(1, len(places), -1, width)


def _attend_triangle(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """Attend (1, Q, T, W) to (1, K, T, W) causally: half the work of a mask."""
    keys, values = _repeat_heads(query, keys), _repeat_heads(query, values)
    return scaled_dot_product_attention(
        query, keys, values, is_causal=True, scale=scale
    )


def _repeat_heads(query: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Repeat (1, K, N, W) to the number of heads of the query."""
    groups = query.shape[1] // states.shape[1]
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


def _attend_plain(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    """Attend (1, Q, T, W) to (1, K, N, W), where Q is a multiple of K."""
    groups = query.shape[1] // keys.shape[1]
    if seen is None and groups > 1:
        # One token that sees everything: the heads of a group are rows of one query.
        width = query.shape[-1]
        packed = query.reshape(1, keys.shape[1], groups, width)
        output = scaled_dot_product_attention(packed, keys, values, scale=scale)
        return output.reshape(1, query.shape[1], 1, width)
    keys, values = _repeat_heads(query, keys), _repeat_heads(query, values)
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=seen, scale=scale
    )


def _attend_apart(
    query: torch.Tensor,
    places: list[tuple[torch.Tensor, torch.Tensor]],
    scale: float | None,
) -> torch.Tensor:
    """Attend one token (1, Q, 1, W) to keys and values in several places.

    Putting them side by side would copy all of them for every token.  Instead each
    place gives its own average of values, and the logarithm of the sum of its weights
    says how much that average counts.

    Args:
        query: Of one token.
        places: Keys and values, (1, K, N, W) each, where Q is a multiple of K.
        scale: Of the scores.
    """
    heads = places[0][0].shape[1]
    # The heads of a group are rows of one query.
    packed = query.reshape(1, heads, query.shape[1] // heads, query.shape[-1])
    output = total = None
    for keys, values in places:
        found, weight = _attend_and_weigh(packed, keys, values, scale=scale)
        weight = weight.unsqueeze(-1)
        if output is None or total is None:
            output, total = found.float(), weight
            continue
        output = torch.lerp(output, found.float(), torch.sigmoid(weight - total))
        total = torch.logaddexp(total, weight)
    assert output is not None
    return output.to(query.dtype).reshape(query.shape)


def _attend_slowly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor | None,
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Like `_attend_plain`, with a soft cap on the scores, sinks, or wider keys.

    Args:
        sinks: One score per head for attending to nothing.
    """
    keys, values = _repeat_heads(query, keys), _repeat_heads(query, values)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query, keys.transpose(2, 3)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if seen is not None:
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return torch.matmul(weights, values)

"""
One step of one session through a part and its ghost cache.

A prompt may come in chunks where layers keep positions.  Where layers keep a state
(Mamba and its kin) only the first chunk is taken whole: the library's own kernels for
several tokens begin from nothing, so later chunks run token by token.
"""

from typing import Any

import torch

from inference.model.ghost_cache import GhostCache
from inference.model.part import Part


def run_pass(
    part: Part, cache: GhostCache, hidden: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    """Run T tokens behind those in `cache` and count them.

    Args:
        part: A stage.
        cache: The session's; unchanged when this raises.
        hidden: (B, T, H)
        kwargs: Of the model's forward pass, for tests of padded batches.

    Returns:
        (B, T, H)
    """
    start = cache.length
    cache.mark()
    try:
        with torch.inference_mode():
            if not cache.has_states or not start:
                return _run(part, cache, hidden, kwargs)
            tokens = hidden.split(1, dim=1)
            return torch.cat([_run(part, cache, t, kwargs) for t in tokens], dim=1)
    except BaseException:
        # Some layers have taken the step and some have not: take it back.
        cache.truncate(start)
        raise


def _run(
    part: Part, cache: GhostCache, hidden: torch.Tensor, kwargs: dict[str, Any]
) -> torch.Tensor:
    tokens = hidden.shape[1]
    if "position_ids" not in kwargs:
        positions = torch.arange(
            cache.length, cache.length + tokens, device=hidden.device
        )
        kwargs = kwargs | {"position_ids": positions.unsqueeze(0)}
    output = part.run_layers(hidden, past_key_values=cache, **kwargs)
    cache.advance(tokens)
    return output

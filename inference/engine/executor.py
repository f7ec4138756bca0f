"""
What a stage asks of the engine that runs its layers, and what both engines share.

    RAGGED  ragged.py          tokens of many sessions in one pass, paged store
    GHOST   ghost_executor.py  one session after another, the library's own cache

An executor has no policy: scheduler.py says what runs, inference/device what fits.
"""

from typing import Protocol

import torch

from inference.device.memory import CacheCost
from inference.engine.pages import PageRun
from inference.engine.scheduler import Work
from inference.errors import UnsupportedModel

TEST_PAGES = 4
"""Pages that a self-test takes."""
_PROMPT_TOKENS = 3


class Executor(Protocol):
    """Runs layers over works; keeps what sessions have computed."""

    name: str
    """For people and certificates."""
    splits: bool
    """Whether a request may come in pieces."""
    shares: bool
    """Whether sessions may have pages in common."""
    cost: CacheCost
    """What its sessions take."""

    def allocate(self, pages: int) -> None:
        """Make room for so many pages; forgets everything."""

    def run(self, works: list[Work], hidden: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run each work's (1, T, H) hidden states; return as many of the same shape.

        A session that is longer than its work's position is rolled back first.  When
        it raises, every session is as it was, or as it was after that rollback.
        """

    def forget(self, session_id: bytes) -> None:
        """Free what a session has kept, if it has."""

    def copy_page(self, source: int, target: int) -> None:
        """Write what one page holds to another one."""

    def read_page(self, page: int) -> bytes:
        """Return what a page holds; of those that share only."""

    def write_page(self, page: int, content: memoryview) -> None:
        """Write what `read_page` of an equal engine gave.

        Raises:
            BadAnswer: Another length, or NaN or infinity.
        """


def build_test_work(
    name: bytes, position: int, tokens: int, pages: tuple[PageRun, ...]
) -> Work:
    """Return work of a self-test's session."""
    return Work(0, name, pages, position, 0, tokens, is_last=True)


def draw_hidden(
    tokens: int, hidden_size: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return random (1, T, H) hidden states, always the same."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, tokens, hidden_size, generator=generator)
    return hidden.to(device=device, dtype=dtype)


def test_executor(executor: Executor, hidden: torch.Tensor) -> None:
    """Run prefill, a step and the step again on the real weights.

    Args:
        executor: With room for `TEST_PAGES`.
        hidden: (1, 4, H)

    Raises:
        UnsupportedModel: Not finite, of a wrong shape, or not repeatable.
    """
    name, pages = b"self-test", (PageRun(0, 1),)
    prompt, token = hidden[:, :_PROMPT_TOKENS], hidden[:, _PROMPT_TOKENS:]
    prefill = build_test_work(name, 0, _PROMPT_TOKENS, pages)
    step = build_test_work(name, _PROMPT_TOKENS, 1, pages)
    try:
        first = executor.run([prefill], [prompt])[0]
        second = executor.run([step], [token])[0]
        again = executor.run([step], [token])[0]
    except Exception as error:
        # Whatever the model's own code raises, the stage is not fit to serve.
        raise UnsupportedModel(f"the self-test failed: {error}") from error
    finally:
        executor.forget(name)
    for kind, output, given in (("prefill", first, prompt), ("step", second, token)):
        if output.shape != given.shape:
            raise UnsupportedModel(f"{kind} gives shape {tuple(output.shape)}")
        if not bool(torch.isfinite(output).all()):
            raise UnsupportedModel(f"{kind} gives NaN or infinity")
    if not torch.equal(second, again):
        raise UnsupportedModel("a repeated step gives another result")

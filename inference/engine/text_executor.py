"""
The engine of encoders: whole texts, one after another, and nothing is kept.

Every token of a text looks at all the others, so a text is one request and never comes
in pieces.  Its results equal the undivided model bit for bit.
"""

import torch

from inference.device.memory import CacheCost
from inference.engine.scheduler import Work
from inference.errors import BadAnswer, UnsupportedModel, WrongPosition
from inference.model.part import Part


class TextExecutor:
    """The layers of an encoder."""

    name = "text"
    splits = False
    shares = False

    def __init__(self, part: Part) -> None:
        """Take a loaded part."""
        self.part = part
        self.cost = CacheCost(0)

    def allocate(self, pages: int) -> None:
        """Nothing is kept."""

    def forget(self, session_id: bytes) -> None:
        """Nothing was kept."""

    def copy_page(self, source: int, target: int) -> None:
        """Nothing was kept."""

    def read_page(self, page: int) -> bytes:
        """Return nothing: nobody has a page's name."""
        return b""

    def write_page(self, page: int, content: memoryview) -> None:
        """Refuse: there are no pages."""
        raise BadAnswer("this engine has no pages")

    def run(self, works: list[Work], hidden: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run texts, (1, T, H) each, one after another.

        Raises:
            WrongPosition: One of them is no beginning.
        """
        if any(work.position for work in works):
            raise WrongPosition("a text is encoded from its beginning")
        with torch.inference_mode():
            return [self.part.run_layers(states) for states in hidden]

    def self_test(self, hidden: torch.Tensor) -> None:
        """Encode some hidden states, (1, T, H), twice.

        Raises:
            UnsupportedModel: Not finite, of a wrong shape, or not repeatable.
        """
        try:
            with torch.inference_mode():
                first, second = (self.part.run_layers(hidden) for _ in range(2))
        except Exception as error:
            # Whatever the model's own code raises, the stage is not fit to serve.
            raise UnsupportedModel(f"the self-test failed: {error}") from error
        if first.shape != hidden.shape:
            raise UnsupportedModel(f"a text gives shape {tuple(first.shape)}")
        if not bool(torch.isfinite(first).all()):
            raise UnsupportedModel("a text gives NaN or infinity")
        if not torch.equal(first, second):
            raise UnsupportedModel("a repeated text gives another result")

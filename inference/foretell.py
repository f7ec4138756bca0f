"""
How well a model foretells text, and what it says by lot: for measuring precisions.

    python -m inference.foretell --model DIR [--precision P]

is the whole model in one process, through the engines that serve it in a network.  It
reads requests from stdin, one JSON object a line, and answers each with one line:

    {"question": "...", "answer": "..."}            {"ids": [id, ...], "first": N}
    {"ids": [id, ...], "first": N}                  {"loss": L}
    {"draw": T, "tokens": N, "seed": S, "question": "..."}
                                                    {"ids": [id, ...], "first": N}

The first gives a chat's token ids and where its answer begins; the second the sum of
-log p of the tokens from there on; the third an answer drawn at a temperature T.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from inference.precision import Precision
from inference.worker import ENVIRONMENT

_SESSION = b"text"


def main() -> int:
    """Answer requests until stdin ends."""
    parser = argparse.ArgumentParser(prog="inference.foretell")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--precision", type=Precision, choices=list(Precision), default="native"
    )
    options = parser.parse_args()
    # Before torch is imported, as in the workers: it reads them once.
    os.environ.update(ENVIRONMENT, OMP_NUM_THREADS="1")
    reader = Reader(options.model, options.precision)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        print(json.dumps(reader.answer(json.loads(line))), flush=True)
    return 0


class Reader:
    """A model in one piece."""

    def __init__(self, directory: Path, precision: Precision) -> None:
        """Load everything."""
        import torch

        from inference.model_info import load_model
        from inference.requester import RequesterEngine
        from inference.stage import StageEngine

        torch.set_num_threads(1)
        self._torch = torch
        info = load_model(directory).info
        self._ends = RequesterEngine.load(directory, info.max_positions, precision)
        self._layers = StageEngine.load(
            directory, range(info.layers), precision=precision
        )

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request."""
        if "ids" in request:
            return {"loss": self.compute_loss(request["ids"], request["first"])}
        prompt = self._encode(request["question"])
        if "draw" in request:
            ids = self.draw(prompt, request["tokens"], request["draw"], request["seed"])
        else:
            ids = prompt + self._ends.encode_text(request["answer"])
        return {"ids": ids, "first": len(prompt)}

    def compute_loss(self, ids: list[int], first: int) -> float:
        """Return the sum of -log p of the tokens from `first` on."""
        self._layers.open_session(_SESSION, len(ids))
        output = self._run(0, ids)
        self._layers.close_session(_SESSION)
        logits = self._ends.finish(
            output[:, first - 1 : -1], range(first - 1, len(ids) - 1)
        )
        chances = self._torch.log_softmax(logits, dim=1)
        expected = self._torch.tensor(ids[first:])
        return -float(chances.gather(1, expected[:, None]).sum())

    def draw(
        self, prompt: list[int], tokens: int, temperature: float, seed: int
    ) -> list[int]:
        """Return a prompt and what the model says to it by lot."""
        generator = self._torch.Generator().manual_seed(seed)
        ids, given = list(prompt), list(prompt)
        self._layers.open_session(_SESSION, len(prompt) + tokens)
        for _ in range(tokens):
            last = self._run(len(ids) - len(given), given)[:, -1:]
            scores = self._ends.finish(last, [len(ids) - 1])[0].double()
            chances = self._torch.softmax(scores / temperature, dim=0)
            drawn = self._torch.multinomial(chances, 1, generator=generator)
            given = [int(drawn)]
            ids += given
        self._layers.close_session(_SESSION)
        return ids

    def _run(self, position: int, ids: list[int]) -> Any:
        """Return what leaves the last layer, (1, T, H), for tokens from there on."""
        torch = self._torch
        positions = torch.arange(position, position + len(ids))[None]
        with torch.inference_mode():
            hidden = self._ends.part.run_front(
                torch.tensor([ids]), position_ids=positions
            )
        return self._layers.forward(_SESSION, position, hidden)

    def _encode(self, question: str) -> list[int]:
        from inference.sampling import ChatMessage

        return self._ends.encode_chat([ChatMessage("user", question)])


if __name__ == "__main__":
    sys.exit(main())

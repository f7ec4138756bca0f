"""
How well a model foretells text, and what it says by lot: for measuring precisions.

    python -m inference.measurement.perplexity --model DIR [--precision P]
        [--hops N --activations A]

is the whole model in one process, through the engines that serve it in a network.  With
several hops hidden states are written as they travel between them.  It reads requests
from stdin, one JSON object a line, and answers each with one line:

    {"question": "...", "answer": "..."}            {"ids": [id, ...], "first": N}
    {"ids": [id, ...], "first": N}                  {"loss": L, "error": E}
    {"draw": T, "tokens": N, "seed": S, "question": "..."}
                                                    {"ids": [id, ...], "first": N}

The first gives a chat's token ids and where its answer begins; the second the sum of
-log p of the tokens from there on, and by how much a way between two hops has changed
the hidden states (root of squares, of the states' own); the third an answer drawn at a
temperature T.
"""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from inference.device.precision import Precision
from inference.protocol.activations import DTYPE_OF_NAME
from inference.protocol.codec import CODEC_OF_NAME, Codec
from inference.protocol.wire_form import WireForm
from inference.worker.service import get_bytes
from inference.worker.worker import ENVIRONMENT

_SESSION = b"text"


def main() -> int:
    """Answer requests until stdin ends."""
    parser = argparse.ArgumentParser(prog="inference.measurement.perplexity")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--precision", type=Precision, choices=list(Precision), default="native"
    )
    parser.add_argument("--hops", type=int, default=1, metavar="N")
    parser.add_argument("--activations", choices=CODEC_OF_NAME, default="lossless")
    options = parser.parse_args()
    # Before torch is imported, as in the workers: it reads them once.
    os.environ.update(ENVIRONMENT, OMP_NUM_THREADS="1")
    codec = CODEC_OF_NAME[options.activations]
    reader = Reader(options.model, options.precision, options.hops, codec)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        print(json.dumps(reader.answer(json.loads(line))), flush=True)
    return 0


class Reader:
    """A model in one process."""

    def __init__(
        self, directory: Path, precision: Precision, hops: int, codec: Codec
    ) -> None:
        """Load everything.

        Args:
            directory: Of the model.
            precision: In which it computes.
            hops: Between which its layers are divided.
            codec: How hidden states travel to, between and from them.
        """
        import torch

        from inference.engine.stage import StageEngine
        from inference.requester.requester import RequesterEngine
        from inference.weights.model_info import load_model

        torch.set_num_threads(1)
        self._torch = torch
        info = load_model(directory).info
        self._requester = RequesterEngine.load(directory, info.max_positions, precision)
        ends = [info.layers * hop // hops for hop in range(hops + 1)]
        self._stages = [
            StageEngine.load(directory, range(*pair), precision=precision)
            for pair in itertools.pairwise(ends)
        ]
        dtype = DTYPE_OF_NAME[precision.get_dtype(info.dtype)]
        self._form = WireForm(info.hidden_size, dtype, codec)
        self._errors: list[float] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request."""
        if "ids" in request:
            self._errors.clear()
            loss = self.compute_loss(request["ids"], request["first"])
            error = sum(self._errors) / max(1, len(self._errors))
            return {"loss": loss, "error": error}
        prompt = self._encode(request["question"])
        if "draw" in request:
            ids = self.draw(prompt, request["tokens"], request["draw"], request["seed"])
        else:
            ids = prompt + self._requester.encode_text(request["answer"])
        return {"ids": ids, "first": len(prompt)}

    def compute_loss(self, ids: list[int], first: int) -> float:
        """Return the sum of -log p of the tokens from `first` on."""
        self._open(len(ids))
        output = self._run(0, ids)
        self._close()
        logits = self._requester.ends.finish(
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
        self._open(len(prompt) + tokens)
        for _ in range(tokens):
            last = self._run(len(ids) - len(given), given)[:, -1:]
            scores = self._requester.ends.finish(last, [len(ids) - 1])[0].double()
            chances = self._torch.softmax(scores / temperature, dim=0)
            drawn = self._torch.multinomial(chances, 1, generator=generator)
            given = [int(drawn)]
            ids += given
        self._close()
        return ids

    def _run(self, position: int, ids: list[int]) -> Any:
        """Return what leaves the last layer, (1, T, H), for tokens from there on."""
        torch = self._torch
        positions = torch.arange(position, position + len(ids))[None]
        with torch.inference_mode():
            hidden = self._requester.part.run_front(
                torch.tensor([ids]), position_ids=positions
            )
        hidden = self._travel(hidden)
        for stage in self._stages:
            hidden = self._travel(stage.forward(_SESSION, position, hidden))
        return hidden

    def _travel(self, hidden: Any) -> Any:
        """Return what arrives of hidden states (1, T, H)."""
        if self._form.codec == Codec.RAW:
            return hidden
        body = self._form.round_trip(bytes(get_bytes(hidden)))
        flat = self._torch.frombuffer(bytearray(body), dtype=hidden.dtype)
        arrived = flat.view(hidden.shape)
        off = (arrived.float() - hidden.float()).norm() / hidden.float().norm()
        self._errors.append(float(off))
        return arrived

    def _open(self, positions: int) -> None:
        for stage in self._stages:
            stage.open_session(_SESSION, positions)

    def _close(self) -> None:
        for stage in self._stages:
            stage.close_session(_SESSION)

    def _encode(self, question: str) -> list[int]:
        from inference.sampling.params import ChatMessage

        return self._requester.encode_chat([ChatMessage("user", question)])


if __name__ == "__main__":
    sys.exit(main())

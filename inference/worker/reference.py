"""
The slow, obvious reference: one process, the whole model, the library's `generate`.

    python -m inference.worker.reference --model DIR [--threads N]

reads requests from stdin, one JSON object a line, and answers each with one line:

    {"messages": [{"role", "content"}], "tokens": N}   or   {"prompt": [id, ...], ...}
    {"ids": [...], "text": "...", "seconds": S, "cpu_seconds": C}

Greedy, exactly N tokens, whatever the model says of its end.  What the stages give is
compared with this, and how fast they are is told as a ratio to it.  With "best": true
the answer also has the two best logits of every step, under that name; with "copies": N
the same prompt is answered N times in one batch, and one answer is shown.
"""

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from inference.worker.worker import ENVIRONMENT


def main() -> int:
    """Answer requests until stdin ends."""
    parser = argparse.ArgumentParser(prog="inference.worker.reference")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    options = parser.parse_args()
    # Before torch is imported, as in the workers: it reads them once.
    os.environ.update(ENVIRONMENT, OMP_NUM_THREADS=str(options.threads))
    reference = Reference(options.model, options.threads)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(reference.answer(json.loads(line))), flush=True)
    return 0


class Reference:
    """The undivided model."""

    def __init__(self, directory: Path, threads: int) -> None:
        """Load everything."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        from inference.model.tokenizer import Tokenizer

        quiet: Any = logging
        quiet.disable_progress_bar()
        torch.set_num_threads(threads)
        self._torch: Any = torch
        self._tokenizer = Tokenizer(directory)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype="auto", local_files_only=True
        ).eval()
        # As the workers do, so that neither side pays for the collector.
        gc.collect()
        gc.freeze()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return ids, text and seconds of the answer to one request."""
        from inference.sampling.params import ChatMessage

        prompt = request.get("prompt")
        if prompt is None:
            given = request["messages"]
            messages = [ChatMessage(m["role"], m["content"]) for m in given]
            prompt = self._tokenizer.encode_chat(messages)
        tokens = request["tokens"]
        inputs = self._torch.tensor([prompt] * request.get("copies", 1))
        wants_best = request.get("best", False)
        started, cpu_started = time.perf_counter(), time.process_time()
        output = self._model.generate(
            inputs,
            attention_mask=self._torch.ones_like(inputs),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=wants_best,
            return_dict_in_generate=True,
        )
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu_started
        ids = output.sequences[0, len(prompt) :].tolist()
        answer = {
            "ids": ids,
            "text": self._tokenizer.decode(ids),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }
        if wants_best:
            answer["best"] = [
                logits[0].float().topk(2).values.tolist() for logits in output.logits
            ]
        return answer


if __name__ == "__main__":
    sys.exit(main())

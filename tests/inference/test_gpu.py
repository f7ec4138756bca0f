"""The same code on a CUDA device: the same answers, and memory that runs out there."""

import pytest
import torch
from tiny_models import FAMILIES, LAYERS, POSITIONS, save_model

from inference.device.hardware import measure_hardware
from inference.device.precision import AUTO, Precision
from inference.engine.executor import draw_hidden
from inference.engine.stage import StageEngine
from inference.errors import UnsupportedModel
from inference.model.stand_ins import CPU
from inference.requester.requester import RequesterEngine
from inference.worker.service import StageService, choose_device, get_bytes

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"
)
PRECISIONS = (Precision.FP32, Precision.BF16, Precision.FP16)
TOLERANCE = {Precision.FP32: 1e-4, Precision.BF16: 5e-2, Precision.FP16: 1e-2}
PROMPT, STEPS = 20, 4


def run_session(engine: StageEngine, hidden: torch.Tensor) -> torch.Tensor:
    """Return what a prompt, steps, and a step after a rollback give, on the CPU."""
    engine.open_session(b"s", POSITIONS)
    outputs = [engine.forward(b"s", 0, hidden[:, :PROMPT])]
    for position in (*range(PROMPT, PROMPT + STEPS), PROMPT):
        step = hidden[:, position : position + 1]
        outputs.append(engine.forward(b"s", position, step))
    engine.close_session(b"s")
    return torch.cat([each.cpu().float() for each in outputs], dim=1)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", "mamba"])
def test_a_stage_gives_there_what_it_gives_here(tmp_path, family, precision) -> None:
    assert family in FAMILIES
    directory = save_model(tmp_path, family)
    cuda, layers = torch.device("cuda"), range(1, LAYERS)
    here = StageEngine.load(directory, layers, precision=Precision.FP32)
    there = StageEngine.load(directory, layers, precision=precision, device=cuda)
    assert there.part.device.type == "cuda"
    assert there.executor.name == here.executor.name
    dtype = there.part.dtype
    hidden = draw_hidden(PROMPT + STEPS, here.hidden_size, dtype, CPU)
    expected = run_session(here, hidden.float())
    found = run_session(there, hidden)
    worst = float((found - expected).abs().max() / expected.abs().max())
    assert worst <= TOLERANCE[precision]


@pytest.mark.gpu
@needs_gpu
def test_the_ends_choose_the_same_tokens(tmp_path) -> None:
    directory = save_model(tmp_path, tokenizer=True)
    here = RequesterEngine.load(directory, POSITIONS)
    there = RequesterEngine.load(directory, POSITIONS, device=torch.device("cuda"))
    hidden = draw_hidden(3, here.hidden_size, here.part.dtype, CPU)
    ours, theirs = here.finish(hidden, [1, 2, 3]), there.finish(hidden, [1, 2, 3])
    assert torch.allclose(ours, theirs.cpu(), atol=1e-4)
    assert there.finish(hidden, [1, 2, 3]).device.type == "cuda"


@pytest.mark.gpu
@needs_gpu
def test_hardware_is_found_and_auto_takes_it(tmp_path) -> None:
    gpus = measure_hardware().gpus
    assert gpus
    assert gpus[0].free_bytes <= gpus[0].total_bytes
    assert gpus[0].bytes_per_s > 1e9
    directory = save_model(tmp_path)
    service = StageService(
        directory, range(1, 3), threads=1, kv_budget_bytes=2**20, device=AUTO
    )
    assert service._engine.part.device.type == "cuda"


def test_words_for_devices() -> None:
    assert choose_device("cpu", Precision.NATIVE) == CPU
    # Packed weights are for processors, whatever else is here.
    assert choose_device(AUTO, Precision.INT8) == CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device(AUTO, Precision.BF16).type == expected
    with pytest.raises(UnsupportedModel):
        choose_device("abacus", Precision.NATIVE)
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedModel, match="no device cuda:1 here"):
            choose_device("cuda:1", Precision.NATIVE)


def test_bytes_of_every_dtype_leave_a_stage() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tensor = torch.arange(6, dtype=dtype).reshape(1, 2, 3)
        back = torch.frombuffer(bytearray(get_bytes(tensor)), dtype=dtype)
        assert torch.equal(back, tensor.reshape(-1))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stage_computes_in_the_dtype_that_is_sold(tmp_path, precision) -> None:
    directory = save_model(tmp_path, dtype=torch.bfloat16)
    layers = range(1, LAYERS)
    wide = StageEngine.load(directory, layers, precision=Precision.FP32)
    engine = StageEngine.load(directory, layers, precision=precision)
    assert engine.part.dtype == getattr(torch, precision.get_dtype("bfloat16"))
    states = draw_hidden(PROMPT + STEPS, wide.hidden_size, torch.float32, CPU)
    expected = run_session(wide, states)
    found = run_session(engine, states.to(engine.part.dtype))
    worst = float((found - expected).abs().max() / expected.abs().max())
    assert worst <= TOLERANCE[precision]
